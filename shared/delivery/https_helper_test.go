package delivery_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/flovyn/promises/shared/delivery"
)

// patience bounds each wait for another goroutine.
const patience = 30 * time.Second

// quiet is the log of servers that clients treat badly on purpose.
var quiet = log.New(io.Discard, "", 0)

// serve starts an https server on loopback, and returns it with a sender that trusts its certificate and may reach its address only.
func serve(t *testing.T, handle http.HandlerFunc) (*httptest.Server, *delivery.HTTPSSender) {
	t.Helper()
	server := httptest.NewUnstartedServer(handle)
	server.Config.ErrorLog = quiet
	server.EnableHTTP2 = true // the sender speaks HTTP/1.1 even so
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, senderTo(t, server)
}

// senderTo returns a sender that trusts the server's certificate and may reach its address only.
func senderTo(t *testing.T, server *httptest.Server) *delivery.HTTPSSender {
	t.Helper()
	sender := &delivery.HTTPSSender{Version: "test"}
	if certificate := server.Certificate(); certificate != nil {
		roots := x509.NewCertPool()
		roots.AddCert(certificate)
		sender.Trust(roots)
	}
	sender.Allow(addressOf(t, server.Listener))
	return sender
}

func addressOf(t *testing.T, listener net.Listener) netip.AddrPort {
	t.Helper()
	address, err := netip.ParseAddrPort(listener.Addr().String())
	require.NoError(t, err)
	return address
}

// portOf returns ":" and the port of the server.
func portOf(server *httptest.Server) string {
	u, _ := url.Parse(server.URL)
	return ":" + u.Port()
}

// batchOf returns a batch of n deliveries to an address.
func batchOf(address string, n int) delivery.Batch {
	b := delivery.Batch{Destination: delivery.Destination{Kind: delivery.HTTPS, Address: address}}
	for i := range n {
		id := fmt.Sprintf("%d", i)
		body, _ := json.Marshal(map[string]string{"id": "msg_" + id, "type": "promise.resolved"})
		b.Deliveries = append(b.Deliveries, delivery.Delivery{ID: id, Message: &delivery.Message{ID: "msg_" + id, Type: "promise.resolved", Body: body}})
	}
	return b
}

// sendOne sends one message to an address and returns its result. It takes no longer than a receiver may delay it.
func sendOne(t *testing.T, sender *delivery.HTTPSSender, address string) delivery.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	results := sender.Send(ctx, batchOf(address, 1))
	require.NoError(t, ctx.Err(), "the sender did not end the attempt by itself")
	require.Len(t, results, 1)
	require.Equal(t, "0", results[0].ID)
	require.LessOrEqual(t, len(results[0].Error), delivery.MaxError)
	return results[0]
}

// raw starts a server that speaks through the connection itself, after it has read the request, and returns its https address and a
// sender to it. Each connection's end is sent to ended.
func raw(t *testing.T, speak func(net.Conn)) (address string, sender *delivery.HTTPSSender, ended chan struct{}) {
	t.Helper()
	ended = make(chan struct{}, 100)
	server, sender := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { ended <- struct{}{} }()
		defer conn.Close()
		speak(conn)
	})
	return server.URL, sender, ended
}

// await waits for a signal.
func await(t *testing.T, signal <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-signal:
	case <-time.After(patience):
		t.Fatal("no sign of this: " + what)
	}
}

// A nameServer is a DNS server on loopback. Each name has a list of answers: the first look-up of a type gets the first one, and so on,
// and later look-ups the last one. An answer has the addresses of the type that the look-up asks for.
type nameServer struct {
	mu      sync.Mutex
	answers map[string][][]netip.Addr
	asked   map[string]int
}

// resolver starts a name server and returns a resolver that asks it only.
func resolver(t *testing.T, answers map[string][][]netip.Addr) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	server := &nameServer{answers: answers, asked: map[string]int{}}
	go func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if answer, err := server.answer(buffer[:n]); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func (s *nameServer) answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil, fmt.Errorf("no question: %w", err)
	}
	q := m.Questions[0]
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionDesired: m.RecursionDesired}
	m.Answers, m.Authorities, m.Additionals = nil, nil, nil
	s.mu.Lock()
	defer s.mu.Unlock()
	answers, known := s.answers[q.Name.String()]
	if !known {
		m.RCode = dnsmessage.RCodeNameError
		return m.Pack()
	}
	key := q.Name.String() + q.Type.String()
	for _, a := range answers[min(s.asked[key], len(answers)-1)] {
		h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	s.asked[key]++
	return m.Pack()
}
