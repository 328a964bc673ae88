package client

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// tolerance is the largest difference between the time of a message and the clock.
const tolerance = 5 * time.Minute

// maxMessage bounds the body of a message. The service sends at most 1 MiB.
const maxMessage = 2 << 20

// A Message notifies the receiver of a destination.
type Message struct {
	ID        string    `json:"id"`   // the same each time that the message comes: do the work once for each id
	Type      string    `json:"type"` // promise.resolved, promise.rejected, promise.cancelled, promise.timed_out, or destination.test
	Timestamp time.Time `json:"timestamp"`
	Tenant    string    `json:"tenant"`

	// Promise is the promise without its deliveries. If ValueOmitted is set, the value was too
	// large for a message: read it with Get. destination.test has no promise.
	Promise Promise `json:"data"`
}

// ErrUnverified is in the error of VerifyDelivery for a message that the service did not
// sign with one of the secrets, or that is too old.
var ErrUnverified = errors.New("promises: the message is not verified")

// VerifyDelivery verifies a message to a destination of the kind https by its signature,
// and decodes it. body has the bytes as they were received. secrets has the destination's
// secret, whsec_..., or two while one replaces the other: one valid signature suffices.
//
// The error wraps ErrUnverified if the signature or the time is not valid. The time may
// differ from the clock by 5 minutes. The signature is that of Standard Webhooks 1.0.0:
// github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
func VerifyDelivery(secrets []string, header http.Header, body []byte) (Message, error) {
	return verifyAt(time.Now(), secrets, header, body)
}

func verifyAt(now time.Time, secrets []string, header http.Header, body []byte) (m Message, err error) {
	id, timestamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	if id == "" || timestamp == "" || header.Get("webhook-signature") == "" {
		return m, fmt.Errorf("%w: it lacks webhook-id, webhook-timestamp or webhook-signature", ErrUnverified)
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return m, fmt.Errorf("%w: webhook-timestamp is no number of seconds", ErrUnverified)
	}
	if age := now.Sub(time.Unix(seconds, 0)); age > tolerance || age < -tolerance {
		return m, fmt.Errorf("%w: its time differs from the clock by more than 5 minutes", ErrUnverified)
	}
	signed := append([]byte(id+"."+timestamp+"."), body...)
	valid := false
	for i, secret := range secrets {
		encoded, prefixed := strings.CutPrefix(secret, "whsec_")
		key, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || !prefixed || len(key) == 0 {
			return m, fmt.Errorf("promises: secret %d of %d is not whsec_ and base64", i+1, len(secrets))
		}
		mac := hmac.New(sha256.New, key)
		mac.Write(signed)
		want := mac.Sum(nil)
		for signature := range strings.FieldsSeq(header.Get("webhook-signature")) {
			got, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signature, "v1,"))
			valid = valid || err == nil && strings.HasPrefix(signature, "v1,") && hmac.Equal(got, want)
		}
	}
	if !valid {
		return m, fmt.Errorf("%w: no signature is valid for a secret", ErrUnverified)
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return m, fmt.Errorf("promises: the message is not JSON of the expected form: %w", err)
	}
	return m, nil
}

// A Receiver is an http.Handler that receives the messages of a destination. It answers 401
// to a message that is not verified, and calls Handle for every verified one about a
// promise. It answers 204 once Handle has succeeded, and to destination.test.
//
// If Handle fails, the answer is 500, and the service sends the message again, for about
// three days. It may also send a message again that was handled, if the answer was lost:
// Handle does its work once for each Message.ID. It has 15 s, so it puts longer work into a
// queue.
type Receiver struct {
	Secrets []string // as for VerifyDelivery
	Handle  func(context.Context, Message) error
	Log     *slog.Logger // gets the errors; nil: slog.Default
}

// ServeHTTP implements http.Handler.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxMessage))
	if err != nil {
		r.answer(w, req, http.StatusBadRequest, err)
		return
	}
	m, err := VerifyDelivery(r.Secrets, req.Header, body)
	switch {
	case errors.Is(err, ErrUnverified):
		r.answer(w, req, http.StatusUnauthorized, err)
		return
	case err == nil && strings.HasPrefix(m.Type, "promise."):
		err = r.Handle(req.Context(), m)
	}
	if err != nil {
		r.answer(w, req, http.StatusInternalServerError, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// answer logs an error, and answers without it.
func (r *Receiver) answer(w http.ResponseWriter, req *http.Request, status int, err error) {
	log := r.Log
	if log == nil {
		log = slog.Default()
	}
	log.LogAttrs(req.Context(), slog.LevelError, "message refused",
		slog.Int("status", status), slog.String("messageId", req.Header.Get("webhook-id")), slog.String("cause", err.Error()))
	http.Error(w, http.StatusText(status), status)
}
