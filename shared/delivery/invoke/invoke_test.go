package invoke_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/delivery/invoke"
)

const function = "promises-test-send-deliveries"

var batch = delivery.Batch{
	Destination: delivery.Destination{Kind: delivery.StepFunctions},
	Deliveries:  []delivery.Delivery{{ID: "1", Completion: &delivery.Completion{Token: "a task token", Output: []byte(`{"a":1}`)}}},
}

// sender returns a Sender for the function, on a Lambda API with that handler, and the number of its calls.
func sender(t *testing.T, name string, answer http.HandlerFunc) (*invoke.Sender, *atomic.Int64) {
	t.Helper()
	calls := new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	return senderAt(t, name, server.URL), calls
}

func senderAt(t *testing.T, name, url string) *invoke.Sender {
	t.Helper()
	for variable, value := range map[string]string{
		"AWS_ENDPOINT_URL_LAMBDA": url, "AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "",
	} {
		t.Setenv(variable, value)
	}
	return invoke.New(name)
}

func TestSend(t *testing.T) {
	t.Run("the function gets the batch, and its results come back", func(t *testing.T) {
		results := []delivery.Result{{ID: "1", Outcome: delivery.Failed, Status: 500, Error: "status 500", RetryAfter: 7}}
		s, _ := sender(t, function, func(w http.ResponseWriter, r *http.Request) {
			var got delivery.Batch
			if json.NewDecoder(r.Body).Decode(&got) != nil || len(got.Deliveries) != 1 || string(got.Deliveries[0].Completion.Output) != `{"a":1}` {
				w.WriteHeader(http.StatusBadRequest)
			}
			json.NewEncoder(w).Encode(results) //nolint:errcheck // the client may have left
		})
		got, err := s.Send(t.Context(), batch)
		require.NoError(t, err)
		require.Equal(t, results, got)
	})
	t.Run("an ARN names the region", func(t *testing.T) {
		s, calls := sender(t, "arn:aws:lambda:us-west-2:123456789012:function:"+function, func(w http.ResponseWriter, r *http.Request) {
			json.NewEncoder(w).Encode([]delivery.Result{{ID: r.Header.Get("Authorization")}}) //nolint:errcheck // the client may have left
		})
		got, err := s.Send(t.Context(), batch)
		require.NoError(t, err)
		require.Contains(t, got[0].ID, "/us-west-2/lambda/")
		require.EqualValues(t, 1, calls.Load())
	})
}

func TestSendThatFails(t *testing.T) {
	api := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Amzn-Errortype", code)
			w.WriteHeader(status)
			io.WriteString(w, `{"message":"because"}`) //nolint:errcheck // the client may have left
		}
	}
	functionError := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
			io.WriteString(w, body) //nolint:errcheck // the client may have left
		}
	}
	for _, c := range []struct {
		name    string
		answer  http.HandlerFunc
		notSent bool
		text    string
	}{
		{"throttled", api(429, "TooManyRequestsException"), true, "TooManyRequestsException"},
		{"the service fails", api(500, "ServiceException"), true, "ServiceException"},
		{"no network interface yet", api(502, "ENILimitReachedException"), true, "ENILimitReachedException"},
		{"denied", api(403, "AccessDeniedException"), true, "AccessDeniedException"},
		{"unknown function", api(404, "ResourceNotFoundException"), true, "ResourceNotFoundException"},
		{"the batch is too large", api(413, "RequestTooLargeException"), false, "RequestTooLargeException"},
		{"the batch is refused", api(400, "InvalidRequestContentException"), false, "InvalidRequestContentException"},
		{"the function crashed", functionError(`{"errorType":"Runtime.ExitError","errorMessage":"a task token"}`), false, "Runtime.ExitError"},
		{"the function failed without a type", functionError(`a task token`), false, "an error without a type"},
		{"the answer is no list", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{}`) }, false, "no list"}, //nolint:errcheck // as above
		{"the connection breaks", func(w http.ResponseWriter, r *http.Request) {
			io.ReadAll(r.Body) //nolint:errcheck // the batch has arrived
			panic(http.ErrAbortHandler)
		}, false, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, calls := sender(t, function, c.answer)
			results, err := s.Send(t.Context(), batch)
			require.ErrorContains(t, err, c.text)
			require.Equal(t, c.notSent, errors.Is(err, delivery.ErrNotSent))
			require.Nil(t, results)
			require.NotContains(t, err.Error(), "a task token")
			require.EqualValues(t, 1, calls.Load(), "no retry")
		})
	}
	t.Run("no connection", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, l.Close())
		_, err = senderAt(t, function, "http://"+l.Addr().String()).Send(t.Context(), batch)
		require.ErrorIs(t, err, delivery.ErrNotSent)
	})
	t.Run("no address", func(t *testing.T) {
		_, err := senderAt(t, function, "http://lambda.invalid").Send(t.Context(), batch)
		require.ErrorIs(t, err, delivery.ErrNotSent)
	})
	t.Run("ctx ends while the function works", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s, _ := sender(t, function, func(_ http.ResponseWriter, r *http.Request) {
			io.ReadAll(r.Body) //nolint:errcheck // the batch has arrived
			cancel()
			<-r.Context().Done()
		})
		_, err := s.Send(ctx, batch)
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, delivery.ErrNotSent)
	})
}
