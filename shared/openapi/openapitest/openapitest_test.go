package openapitest_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/openapi/openapitest"
)

const (
	promises = "/api/tenants/demo/promises"
	created  = `{"created":true,"promiseId":"3f0c1c9e-5d7b-4e7a-9a43-8f8d3f1f2a10","identifier":"key:a","workflowExecutionId":"0b5c1f4e-6a0e-4f0a-9c58-2d1a3c7e9b10",
		"name":"n","state":"pending","createdAt":"2026-11-23T20:00:00Z","createdBySequence":1}`
	problem = `{"type":"https://example.com","title":"t","status":400,"detail":"d","code":"unknown_field"}`
)

// The checks find an exchange that the description does not have.
func TestCheck(t *testing.T) {
	t.Parallel()
	d, err := openapitest.Load()
	require.NoError(t, err)
	valid := openapitest.Exchange{
		Method: "POST", Path: promises, Request: []byte(`{"workflowId":"w","name":"n"}`), Status: 201, ContentType: "application/json", Answer: []byte(created),
	}
	require.NoError(t, d.Check(valid))
	list := openapitest.Exchange{Method: "GET", Path: promises, Query: "limit=10&state=pending", Status: 200, ContentType: "application/json", Answer: []byte(`{"promises":[]}`)}
	require.NoError(t, d.Check(list))
	for name, change := range map[string]func() openapitest.Exchange{
		"a status":           func() openapitest.Exchange { e := valid; e.Status = 204; return e },
		"a content type":     func() openapitest.Exchange { e := valid; e.ContentType = "text/html"; return e },
		"a field is missing": func() openapitest.Exchange { e := valid; e.Answer = []byte(`{"created":true}`); return e },
		"an unknown state": func() openapitest.Exchange {
			e := valid
			e.Answer = []byte(strings.Replace(created, "pending", "open", 1))
			return e
		},
		"an unknown field was taken": func() openapitest.Exchange {
			e := valid
			e.Request = []byte(`{"workflowId":"w","name":"n","x":1}`)
			return e
		},
		"a long name was taken": func() openapitest.Exchange {
			e := valid
			e.Request = []byte(`{"name":"` + strings.Repeat("n", 256) + `"}`)
			return e
		},
		"an unknown parameter":         func() openapitest.Exchange { e := list; e.Query = "x=1"; return e },
		"a parameter beyond its limit": func() openapitest.Exchange { e := list; e.Query = "limit=101"; return e },
		"an unknown code": func() openapitest.Exchange {
			e := valid
			e.Status, e.ContentType, e.Answer = 400, "application/problem+json", []byte(strings.Replace(problem, "unknown_field", "bad", 1))
			return e
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Error(t, d.Check(change()))
		})
	}
	refused := valid
	refused.Request, refused.Status, refused.ContentType, refused.Answer = []byte(`{"x":1}`), 400, "application/problem+json", []byte(problem)
	require.NoError(t, d.Check(refused), "the service refused what is not valid")
}

// A Transport leaves the exchange as it is, and reports each one that differs.
func TestTransport(t *testing.T) {
	t.Parallel()
	d, err := openapitest.Load()
	require.NoError(t, err)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Promises-Version", "0")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	var faults []error
	client := http.Client{Transport: &openapitest.Transport{Base: http.DefaultTransport, Description: d, Fault: func(err error) { faults = append(faults, err) }}}
	for _, path := range []string{promises, "/elsewhere"} {
		response, err := client.Post(s.URL+path, "application/json", strings.NewReader(`{"name":"n"}`))
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, `{"name":"n"}`, string(body))
	}
	require.Len(t, faults, 1)
	require.ErrorContains(t, faults[0], "POST "+promises)
}
