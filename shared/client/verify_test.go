package client_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/client"
	"github.com/flovyn/promises/shared/delivery"
)

const message = `{"id":"m1","type":"promise.resolved","timestamp":"2026-11-27T10:00:00Z","tenant":"acme",` +
	`"data":{"promiseId":"3f0c1c9e-8f4b-4c57-9a1e-3b1c2d4e5f60","state":"resolved","value":{"a": 1}}}`

// sign returns the headers that the service sends.
func sign(t *testing.T, at time.Time, body string, secrets ...string) http.Header {
	t.Helper()
	signed, err := delivery.SignHeaders(secrets, "m1", at, []byte(body))
	require.NoError(t, err)
	h := http.Header{}
	for name, value := range maps.All(signed) {
		h.Set(name, value)
	}
	return h
}

func TestVerifyDelivery(t *testing.T) {
	t.Parallel()
	former, newest, other := delivery.NewSecret(), delivery.NewSecret(), delivery.NewSecret()
	now := time.Now()
	for name, row := range map[string]struct {
		header  http.Header
		secrets []string
		body    string
		valid   bool
	}{
		"one secret": {sign(t, now, message, newest), []string{newest}, message, true},
		"two signatures, the receiver has the old": {sign(t, now, message, newest, former), []string{former}, message, true},
		"two signatures, the receiver has the new": {sign(t, now, message, newest, former), []string{newest}, message, true},
		"one signature, the receiver has both":     {sign(t, now, message, newest), []string{former, newest}, message, true},
		"4 minutes old":                            {sign(t, now.Add(-4*time.Minute), message, newest), []string{newest}, message, true},
		"6 minutes old":                            {sign(t, now.Add(-6*time.Minute), message, newest), []string{newest}, message, false},
		"6 minutes ahead":                          {sign(t, now.Add(6*time.Minute), message, newest), []string{newest}, message, false},
		"another secret":                           {sign(t, now, message, other), []string{former, newest}, message, false},
		"another body":                             {sign(t, now, message, newest), []string{newest}, message + " ", false},
		"no secret":                                {sign(t, now, message, newest), nil, message, false},
		"no header":                                {http.Header{}, []string{newest}, message, false},
		"a timestamp that is no number":            {with(sign(t, now, message, newest), "webhook-timestamp", "now"), []string{newest}, message, false},
		"a far timestamp":                          {with(sign(t, now, message, newest), "webhook-timestamp", "99999999999999999"), []string{newest}, message, false},
		"another id":                               {with(sign(t, now, message, newest), "webhook-id", "m2"), []string{newest}, message, false},
		"no v1": {with(sign(t, now, message, newest), "webhook-signature",
			strings.TrimPrefix(sign(t, now, message, newest).Get("webhook-signature"), "v1,")), []string{newest}, message, false},
		"a signature of another version first": {with(sign(t, now, message, newest), "webhook-signature",
			"v1a,AAAA "+sign(t, now, message, newest).Get("webhook-signature")), []string{newest}, message, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := client.VerifyDelivery(row.secrets, row.header, []byte(row.body))
			if !row.valid {
				require.ErrorIs(t, err, client.ErrUnverified)
				require.NotContains(t, err.Error(), "whsec_")
				require.Zero(t, m)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "m1", m.ID)
			require.Equal(t, `{"a": 1}`, string(m.Promise.Value))
		})
	}
	t.Run("a secret that is none", func(t *testing.T) {
		_, err := client.VerifyDelivery([]string{"hunter2"}, sign(t, now, message, newest), []byte(message))
		require.Error(t, err)
		require.NotErrorIs(t, err, client.ErrUnverified)
		require.NotContains(t, err.Error(), "hunter2")
	})
}

func with(h http.Header, name, value string) http.Header {
	h.Set(name, value)
	return h
}

func TestReceiver(t *testing.T) {
	t.Parallel()
	secret := delivery.NewSecret()
	test := strings.Replace(message, "promise.resolved", "destination.test", 1)
	for name, row := range map[string]struct {
		body    string
		secret  string
		fails   error
		status  int
		handled int
	}{
		"handled":         {message, secret, nil, 204, 1},
		"a handler fails": {message, secret, errors.New("the database is down"), 500, 1},
		"not verified":    {message, delivery.NewSecret(), nil, 401, 0},
		"a test":          {test, secret, nil, 204, 0},
		"too large":       {strings.Repeat(" ", 2<<20) + message, secret, nil, 400, 0},
		"not a message":   {"[]", secret, nil, 500, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			handled := 0
			receiver := &client.Receiver{
				Secrets: []string{secret}, Log: slog.New(slog.NewTextHandler(&log, nil)),
				Handle: func(context.Context, client.Message) error { handled++; return row.fails },
			}
			req := httptest.NewRequest(http.MethodPost, "/hook", strings.NewReader(row.body))
			req.Header = sign(t, time.Now(), row.body, row.secret)
			w := httptest.NewRecorder()
			receiver.ServeHTTP(w, req)
			require.Equal(t, row.status, w.Code)
			require.Equal(t, row.handled, handled)
			require.NotContains(t, w.Body.String(), "database")
			require.Equal(t, row.status >= 400, log.Len() > 0, "each refusal is logged")
			if row.fails != nil {
				require.Contains(t, log.String(), row.fails.Error())
			}
		})
	}
}
