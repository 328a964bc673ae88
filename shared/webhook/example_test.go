package webhook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook"
)

// A sender signs "{timestamp}.{body}". The source describes this, and Verify checks it.
func ExampleVerify() {
	verifier := promise.SourceVerifier{HMAC: &promise.HMACVerifier{
		Algorithm: "sha256", Header: "x-signature", Prefix: "sha256=", Encoding: "hex", Signed: "{timestamp}.{body}", TimestampHeader: "x-timestamp",
	}}
	const secret, body = "a secret that both sides know", `{"order":42,"state":"paid"}`
	fmt.Println(webhook.CheckVerifier(verifier, ""), webhook.CheckSecret(verifier, secret))

	at := time.Date(2026, 11, 27, 8, 30, 0, 0, time.UTC)
	sign := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(sign, "%d.%s", at.Unix(), body)
	request := promise.WebhookRequest{
		Header: map[string]string{"x-timestamp": fmt.Sprint(at.Unix()), "x-signature": "sha256=" + hex.EncodeToString(sign.Sum(nil))},
		Body:   []byte(body),
	}

	_, err := webhook.Verify(verifier, []string{secret}, request, at.Add(time.Minute))
	fmt.Println(err)
	_, err = webhook.Verify(verifier, []string{secret}, request, at.Add(time.Hour))
	fmt.Println(err)
	request.Body = []byte(`{"order":43,"state":"paid"}`)
	_, err = webhook.Verify(verifier, []string{secret}, request, at)
	fmt.Println(err)
	// Output:
	// <nil> <nil>
	// <nil>
	// the timestamp is too old
	// no signature matches
}

// The deployment has one key. The last segment of a source's URL is the same as long as the key is.
func ExampleURLKey() {
	key, err := webhook.ParseURLKey("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	if err != nil {
		fmt.Println(err)
		return
	}
	segment := key.Segment("acme", "stripe")
	fmt.Println(segment)
	fmt.Println(key.Parse("acme", segment))
	fmt.Println(key.Parse("globex", segment))
	// Output:
	// stripe-esdx3pmkqukcnbxr
	// stripe true
	//  false
}
