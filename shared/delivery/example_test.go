package delivery_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/flovyn/promises/shared/delivery"
)

// A receiver accepts the signed messages of one destination.
type receiver struct {
	webhook *standardwebhooks.Webhook // made from the secret, whsec_...

	mu   sync.Mutex
	seen map[string]bool // the ids of messages: in your database, beside the work that a message causes
	work func(body []byte)
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 2<<20)) // the bytes as they came: they are what is signed
	if err != nil {
		http.Error(w, "unreadable", http.StatusBadRequest)
		return
	}
	if r.webhook.Verify(body, req.Header) != nil { // it also refuses a message of more than 5 minutes ago
		http.Error(w, "invalid signature", http.StatusUnauthorized)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if id := req.Header.Get("webhook-id"); !r.seen[id] {
		r.seen[id] = true
		r.work(body) // quickly: put it into a queue of your own
	}
	w.WriteHeader(http.StatusNoContent)
}

// A receiver verifies the signature on the bytes as they came, does its work once for each id, and answers 2xx quickly.
func Example() {
	secret := delivery.NewSecret()
	webhook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		fmt.Println(err)
		return
	}
	server := httptest.NewServer(&receiver{webhook: webhook, seen: map[string]bool{}, work: func(body []byte) { fmt.Println("work:", string(body)) }})
	defer server.Close()

	// The service's part: a message, the same one again, one with two secrets while one replaces the other, and a forged one.
	body := []byte(`{"id":"8d1f","type":"promise.resolved"}`)
	sender := delivery.HTTPSSender{Version: "example", Loopback: true}
	for _, secrets := range [][]string{{secret}, {secret}, {delivery.NewSecret(), secret}, {delivery.NewSecret()}} {
		headers, err := delivery.SignHeaders(secrets, "8d1f", time.Now(), body)
		if err != nil {
			fmt.Println(err)
			return
		}
		results := sender.Send(context.Background(), delivery.Batch{
			Destination: delivery.Destination{Kind: delivery.HTTPS, Address: server.URL + "/hook"},
			Deliveries:  []delivery.Delivery{{ID: "8d1f", Message: &delivery.Message{ID: "8d1f", Body: body, Headers: headers}}},
		})
		fmt.Println(strings.TrimSpace(fmt.Sprint(results[0].Outcome, " ", results[0].Status, " ", results[0].Error)))
	}
	// Output:
	// work: {"id":"8d1f","type":"promise.resolved"}
	// delivered 204
	// delivered 204
	// delivered 204
	// failed 401 status 401: invalid signature
}
