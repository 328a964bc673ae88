package gateway_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/gateway"
)

func TestVersionIsTheNewestOfTheChangelog(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../.github/CHANGELOG.md")
	require.NoError(t, err)
	newest := regexp.MustCompile(`(?m)^## \[(\d+\.\d+\.\d+)\]`).FindSubmatch(text)
	require.NotNil(t, newest, "the changelog has a heading ## [1.2.3]")
	require.Equal(t, string(newest[1]), gateway.Version)
}

// Each row is one kind of answer, and the rows run in order. decodeResponse requires the header of every other answer in this package's tests.
func TestEveryKindOfAnswerHasTheVersion(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	for _, c := range []struct {
		name, function string
		payload        []byte
		status         int
	}{
		{"a problem", "resolve", httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{}`), 400},
		{"a wait beyond the tenant's limit", "wait-promise", httpEvent(t, "GET", tenant, "id:"+promiseID, "waitSeconds=25", ""), 200},
		{"a problem of a callback URL", "settle-callback", callback{verb: "resolve", query: "token=none"}.event(t), 403},
		{"a settlement", "resolve", httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{"value":1}`), 200},
		{"a late call of a callback URL", "settle-callback", callback{verb: "resolve", query: "token=" + sampleToken}.event(t), 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := s.handler(t, c.function)
			h.MaxWaits = 0
			got, err := h.Invoke(t.Context(), c.payload)
			require.NoError(t, err)
			a := decodeResponse(t, got)
			require.Equal(t, c.status, a.StatusCode, a.Body)
			require.Equal(t, gateway.Version, a.Headers["promises-version"])
		})
	}
}

// The direct form answers with the body alone, so it cannot carry the version.
func TestADirectAnswerHasNoVersion(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	got, err := s.direct(t, "get-promise", payloadByID+`}`)
	require.NoError(t, err)
	require.NotContains(t, got, gateway.Version)
}
