package webhook

import (
	"encoding/json"

	"github.com/flovyn/promises/shared/promise"
)

// The largest handshake of Slack, and its largest challenge, in bytes. Slack's challenges
// have about 50.
const (
	maxHandshake = 4096
	maxChallenge = 1024
)

// Answer returns the answer to a handshake, and reports whether the request is one. The
// request has been verified. jsonBody is its body as JSON. Nothing is to be done about a
// handshake but to answer it with the status 200.
//
// Slack sends the challenge once, when the URL is entered
// (docs.slack.dev/reference/events/url_verification). GitHub sends a ping when a webhook
// is created (docs.github.com/en/webhooks/webhook-events-and-payloads#ping). It does not
// sign its header, so a captured request can be sent again as a ping. That does nothing.
func Answer(h promise.Handshake, r promise.WebhookRequest, jsonBody []byte) (contentType string, body []byte, ok bool) {
	switch h {
	case promise.HandshakeSlack:
		var request struct {
			Type      string `json:"type"`
			Challenge string `json:"challenge"`
		}
		if len(jsonBody) > maxHandshake || json.Unmarshal(jsonBody, &request) != nil ||
			request.Type != "url_verification" || request.Challenge == "" || len(request.Challenge) > maxChallenge {
			return "", nil, false
		}
		return "text/plain", []byte(request.Challenge), true
	case promise.HandshakeGit:
		if r.Header["x-github-event"] != "ping" {
			return "", nil, false
		}
		return "application/json", []byte(`{"outcome":"ignored"}`), true
	default:
		return "", nil, false
	}
}
