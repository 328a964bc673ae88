package delivery

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The headers of a Standard Webhook.
const (
	headerID        = "webhook-id"
	headerTimestamp = "webhook-timestamp"
	headerSignature = "webhook-signature"
)

// The sizes of a signing secret in bytes, before base64. The spec demands 192 to 512
// bits.
const (
	minSecret = 24
	maxSecret = 64
	newSecret = 32
)

const secretPrefix = "whsec_"

// maxActive is the number of secrets that are active while one replaces another.
const maxActive = 2

// NewSecret returns a new random signing secret: "whsec_", then the base64 of 32
// bytes.
func NewSecret() string {
	secret := make([]byte, newSecret)
	_, _ = rand.Read(secret) // it never fails: it ends the process instead
	return secretPrefix + base64.StdEncoding.EncodeToString(secret)
}

// SignHeaders returns the headers webhook-id, webhook-timestamp and webhook-signature
// of one attempt, as Standard Webhooks 1.0.0 defines them
// (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md).
//
// secrets has one active secret, or two while one replaces the other. Each signs with
// HMAC-SHA256, and the receiver accepts the message if one signature is valid. The id
// is the same for every attempt, and at is the time of this attempt. The receiver must
// get exactly the bytes of body.
//
// The id has visible ASCII characters except the period, because the period separates
// the parts that are signed. An error names no secret and no part of one.
func SignHeaders(secrets []string, id string, at time.Time, body []byte) (map[string]string, error) {
	if len(secrets) == 0 || len(secrets) > maxActive {
		return nil, fmt.Errorf("a message is signed with 1 or %d secrets, not with %d", maxActive, len(secrets))
	}
	if id == "" || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' || r == '.' }) {
		return nil, errors.New("the id of a message has visible ASCII characters except the period")
	}
	timestamp := strconv.FormatInt(at.Unix(), 10)
	signatures := make([]string, len(secrets))
	for i, secret := range secrets {
		key, ok := decodeSecret(secret)
		if !ok {
			return nil, fmt.Errorf("secret %d of %d is not %s and the base64 of %d to %d bytes", i+1, len(secrets), secretPrefix, minSecret, maxSecret)
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + timestamp + "."))
		mac.Write(body)
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return map[string]string{
		headerID:        id,
		headerTimestamp: timestamp,
		headerSignature: strings.Join(signatures, " "),
	}, nil
}

// decodeSecret returns the bytes of a secret, and reports whether it is valid.
func decodeSecret(secret string) ([]byte, bool) {
	encoded, found := strings.CutPrefix(secret, secretPrefix)
	key, err := base64.StdEncoding.DecodeString(encoded)
	return key, found && err == nil && len(key) >= minSecret && len(key) <= maxSecret
}
