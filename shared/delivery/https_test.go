package delivery_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/delivery"
)

// A receiver gets each message once, as the relay made it, with the signature of every active secret. The Standard Webhooks library
// verifies them, the timestamp included.
func TestSendSignedMessages(t *testing.T) {
	t.Parallel()
	oldSecret, newSecret := delivery.NewSecret(), delivery.NewSecret()
	var mu sync.Mutex
	bodies := map[string]string{}
	server, sender := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		for _, secret := range []string{oldSecret, newSecret} {
			oracle, wrong := standardwebhooks.NewWebhook(secret)
			if err == nil && wrong == nil {
				err = oracle.Verify(body, r.Header)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		id := r.Header.Get("webhook-id")
		if _, again := bodies[id]; err != nil || again || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" ||
			r.Header.Get("User-Agent") != "promises/test" || r.URL.String() != "/hook?a=b" || r.ContentLength != int64(len(body)) || len(r.Header) != 6 {
			t.Errorf("%s %s %v: %v", r.Method, r.URL, r.Header, err)
			w.WriteHeader(http.StatusBadRequest)
		}
		bodies[id] = string(body)
		w.WriteHeader(http.StatusNoContent)
	})

	const n = 50
	batch := batchOf(server.URL+"/hook?a=b", n)
	for _, d := range batch.Deliveries {
		headers, err := delivery.SignHeaders([]string{oldSecret, newSecret}, d.Message.ID, time.Now(), d.Message.Body)
		require.NoError(t, err)
		d.Message.Headers = headers
	}
	results := sender.Send(t.Context(), batch)
	require.Len(t, results, n)
	for i, d := range batch.Deliveries {
		require.Equal(t, delivery.Result{ID: d.ID, Outcome: delivery.Delivered, Status: 204}, results[i])
		require.Equal(t, string(d.Message.Body), bodies[d.Message.ID])
	}
	require.Len(t, bodies, n)
}

func TestOutcomeOfAStatus(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status  int
		outcome delivery.Outcome
	}{
		{200, delivery.Delivered},
		{201, delivery.Delivered},
		{202, delivery.Delivered},
		{204, delivery.Delivered},
		{299, delivery.Delivered},
		{304, delivery.Failed},
		{400, delivery.Failed},
		{401, delivery.Failed},
		{404, delivery.Failed},
		{410, delivery.Disabled},
		{413, delivery.Failed},
		{429, delivery.Failed},
		{500, delivery.Failed},
		{503, delivery.Failed},
		{599, delivery.Failed},
	} {
		t.Run(strconv.Itoa(c.status), func(t *testing.T) {
			t.Parallel()
			server, sender := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(c.status) })
			want := delivery.Result{ID: "0", Outcome: c.outcome, Status: c.status}
			if c.outcome != delivery.Delivered {
				want.Error = "status " + strconv.Itoa(c.status)
			}
			require.Equal(t, want, sendOne(t, sender, server.URL))
		})
	}
}

// A redirect is a failed attempt. Its target sees no request.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			server, sender := serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(status)
			})
			result := sendOne(t, sender, server.URL)
			require.Equal(t, delivery.Failed, result.Outcome)
			require.Equal(t, status, result.Status)
			require.EqualValues(t, 1, requests.Load())
		})
	}
}

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		value string
		want  time.Duration
	}{
		{"", 0},
		{"0", 0},
		{"120", 2 * time.Minute},
		{"86400", 24 * time.Hour},
		{"86401", delivery.MaxRetryAfter},
		{"99999999999999999999999999", delivery.MaxRetryAfter},
		{"-1", 0},
		{"+1", 0},
		{"1.5", 0},
		{"soon", 0},
		{"Sun, 01 Mar 2026 12:01:30 GMT", 90 * time.Second},
		{"Sunday, 01-Mar-26 12:01:30 GMT", 90 * time.Second},
		{"Sun Mar  1 12:01:30 2026", 90 * time.Second},
		{"Sun, 01 Mar 2026 11:00:00 GMT", 0},
		{"Fri, 31 Dec 9999 23:59:59 GMT", delivery.MaxRetryAfter},
		{"Sun, 32 Mar 2026 12:01:30 GMT", 0},
	} {
		t.Run(c.value, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, delivery.ParseRetryAfter(c.value, now))
		})
	}
}

// Only 429 and 503 have a Retry-After that counts. It stops the batch: the attempts that have begun end, and the rest is throttled.
func TestRetryAfterStopsTheBatch(t *testing.T) {
	t.Parallel()
	for status, counts := range map[int]bool{429: true, 503: true, 500: false, 502: false} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			server, sender := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				requests.Add(1)
				w.Header().Set("Retry-After", "120")
				w.WriteHeader(status)
			})
			results := sender.Send(t.Context(), batchOf(server.URL, 100))
			failed, throttled := 0, 0
			for i, r := range results {
				require.Equal(t, strconv.Itoa(i), r.ID)
				require.Equal(t, counts, r.RetryAfter == 2*time.Minute)
				switch r.Outcome {
				case delivery.Failed:
					failed++
					require.Equal(t, status, r.Status)
				case delivery.Throttled:
					throttled++
					require.Zero(t, r.Status)
					require.Equal(t, "not sent: the destination answered another message with status "+strconv.Itoa(status), r.Error)
				default:
					t.Errorf("the outcome of %s is %s", r.ID, r.Outcome)
				}
			}
			require.EqualValues(t, failed, requests.Load())
			if counts {
				require.LessOrEqual(t, failed, 2*delivery.Concurrency)
				require.Equal(t, 100, failed+throttled)
			} else {
				require.Equal(t, 100, failed)
			}
		})
	}
}

func TestGoneStopsTheBatch(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	server, sender := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.WriteHeader(http.StatusGone)
	})
	for _, r := range sender.Send(t.Context(), batchOf(server.URL, 100)) {
		require.Equal(t, delivery.Disabled, r.Outcome)
		require.Zero(t, r.RetryAfter)
	}
	require.LessOrEqual(t, requests.Load(), int32(2*delivery.Concurrency))
}

// An Error has the beginning of the answer on one line, without words that may be a token or a signature.
func TestExcerptOfAnAnswer(t *testing.T) {
	t.Parallel()
	secret := delivery.NewSecret()
	signed, err := delivery.SignHeaders([]string{secret, secret}, "msg_0", time.Now(), nil)
	require.NoError(t, err)
	signature := signed["webhook-signature"]
	for _, c := range []struct{ name, body, want string }{
		{"nothing", "", "status 500"},
		{"text", "no such order", "status 500: no such order"},
		{"lines and control characters", "a\r\n\tb\x00\x1b[31mc\u202ed", "status 500: a b [31mc d"},
		{"no UTF-8", "a\xff\xfeb", "status 500: a b"},
		{"signatures", "wrong: " + signature + "!", "status 500: wrong: v1,... v1,...!"},
		{"a secret in JSON", `{"secret":"` + secret + `"}`, `status 500: {"secret":"..."}`},
		{"a signature in JSON with escapes", `{"s":"` + strings.ReplaceAll(strings.ReplaceAll(signature, "/", `\/`), "+", `\u002b`) + `"}`, `status 500: {"s":"v1,... v1,..."}`},
		{"long text", strings.Repeat("ab ", 1000), "status 500: " + strings.Repeat("ab ", 66) + "ab"},
		{"long text of several bytes", "a" + strings.Repeat("é", 1000), "status 500: a" + strings.Repeat("é", 99)},
		{"tokens over the end of what is read", strings.Repeat(secret+" ", 1000), "status 500: " + strings.Repeat("... ", 50)},
		{"one endless word", strings.Repeat("a", 100_000), "status 500"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server, sender := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusInternalServerError)
				_, _ = io.WriteString(w, c.body)
			})
			require.Equal(t, c.want, sendOne(t, sender, server.URL).Error)
		})
	}
}

// Answers of 10 MB, and answers that never end, are cut off. The status counts.
func TestLargeAnswers(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 500} {
		for name, size := range map[string]int{"10 MB": 10 << 20, "endless": 1 << 40} {
			t.Run(fmt.Sprintf("%s, %d", name, status), func(t *testing.T) {
				t.Parallel()
				written, ended := 0, make(chan struct{})
				server, sender := serve(t, func(w http.ResponseWriter, _ *http.Request) {
					defer close(ended)
					w.WriteHeader(status)
					block := bytes.Repeat([]byte("x "), 16<<10)
					for written < size {
						n, err := w.Write(block)
						written += n
						if err != nil {
							return
						}
					}
				})
				require.Equal(t, status, sendOne(t, sender, server.URL).Status)
				await(t, ended, "the answer is cut off")
				if size > 10<<20 {
					require.Less(t, written, size)
				}
			})
		}
	}
}

// A compressed answer is not decompressed.
func TestCompressedAnswer(t *testing.T) {
	t.Parallel()
	server, sender := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" {
			t.Error("the sender asks for compression")
		}
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(http.StatusInternalServerError)
		z := gzip.NewWriter(w)
		_, _ = z.Write(make([]byte, 10<<20))
		_ = z.Close()
	})
	result := sendOne(t, sender, server.URL)
	require.Equal(t, 500, result.Status)
	require.LessOrEqual(t, len(result.Error), 250)
}

// Answers that are no answer: each attempt fails with a plain reason that has nothing of what the destination sent, and ends by itself.
func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	const (
		invalid = "the destination's answer is not valid TLS or HTTP, or its headers exceed 16384 bytes"
		closed  = "the destination closed the connection before it answered"
	)
	for _, c := range []struct {
		name, want string
		speak      func(net.Conn)
	}{
		{"closes early", closed, func(net.Conn) {}},
		{"closes within the status", invalid, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 20") }},
		{"closes within the headers", closed, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nA: b\r\n") }},
		{"garbage", invalid, func(c net.Conn) { _, _ = io.WriteString(c, "s3cret garbage\r\n\r\n") }},
		{"no number", invalid, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 s3cret OK\r\n\r\n") }},
		{"status 0", invalid, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 000 OK\r\nContent-Length: 6\r\n\r\ns3cret") }},
		{"two lengths", invalid, func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\ns3cret")
		}},
		{"endless headers", invalid, func(c net.Conn) {
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for err == nil {
				_, err = io.WriteString(c, "A: s3cret\r\n")
			}
		}},
		{"one endless header", invalid, func(c net.Conn) {
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nA: ")
			for err == nil {
				_, err = io.WriteString(c, "s3cret")
			}
		}},
		{"endless informational answers", invalid, func(c net.Conn) {
			_, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n")
			for err == nil {
				_, err = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nA: s3cret\r\n\r\n")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			address, sender, ended := raw(t, c.speak)
			require.Equal(t, delivery.Result{ID: "0", Outcome: delivery.Failed, Error: c.want}, sendOne(t, sender, address))
			await(t, ended, "the connection ends")
		})
	}
}

// A receiver that has answered with its status cannot delay the batch by the body.
func TestStatusWithoutItsBody(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, answer string
		outcome      delivery.Outcome
		status       int
	}{
		{"delivered", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", delivery.Delivered, 200},
		{"delivered, in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", delivery.Delivered, 200},
		{"failed", "HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nab", delivery.Failed, 500},
		{"another protocol", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", delivery.Failed, 101},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			address, sender, ended := raw(t, func(conn net.Conn) {
				_, _ = io.WriteString(conn, c.answer)
				_, _ = io.Copy(io.Discard, conn) // until the sender closes
			})
			sender.LimitAttempt(time.Hour)
			result := sendOne(t, sender, address)
			require.Equal(t, c.outcome, result.Outcome)
			require.Equal(t, c.status, result.Status)
			await(t, ended, "the sender closes the connection")
		})
	}
}

// An attempt ends when its time ends: if the receiver accepts and says nothing, does not finish the TLS handshake, or does not answer.
func TestHangingReceivers(t *testing.T) {
	t.Parallel()
	const want = "the destination did not answer in time"
	t.Run("no answer", func(t *testing.T) {
		t.Parallel()
		address, sender, _ := raw(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		sender.LimitAttempt(500 * time.Millisecond)
		require.Equal(t, delivery.Result{ID: "0", Outcome: delivery.Failed, Error: want}, sendOne(t, sender, address))
	})
	t.Run("no TLS handshake", func(t *testing.T) {
		t.Parallel()
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { listener.Close() })
		sender := &delivery.HTTPSSender{}
		sender.Allow(addressOf(t, listener))
		sender.LimitAttempt(500 * time.Millisecond)
		require.Equal(t, want, sendOne(t, sender, "https://"+listener.Addr().String()).Error)
	})
	t.Run("no name server", func(t *testing.T) {
		t.Parallel()
		sender := &delivery.HTTPSSender{}
		sender.Resolve(&net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		sender.LimitAttempt(500 * time.Millisecond)
		require.Equal(t, delivery.Failed, sendOne(t, sender, "https://name.test./").Outcome)
	})
}

// The end of the batch's time ends the attempts that have begun, as failed ones. The others do not count as attempts.
func TestEndOfTheBatch(t *testing.T) {
	t.Parallel()
	const n = 3 * delivery.Concurrency
	ctx, cancel := context.WithCancel(t.Context())
	var began atomic.Int32
	server, sender := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if began.Add(1) == delivery.Concurrency {
			cancel()
		}
		<-r.Context().Done()
	})
	results := sender.Send(ctx, batchOf(server.URL, n))
	require.EqualValues(t, delivery.Concurrency, began.Load())
	count := map[delivery.Result]int{}
	for i, r := range results {
		require.Equal(t, strconv.Itoa(i), r.ID)
		r.ID = ""
		count[r]++
	}
	require.Equal(t, map[delivery.Result]int{
		{Outcome: delivery.Failed, Error: "the attempt was cut off"}:                 delivery.Concurrency,
		{Outcome: delivery.Throttled, Error: "not sent: the batch had no time left"}: n - delivery.Concurrency,
	}, count)
}

// A batch sends several messages at the same time, and no more than the bound.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	var now, most atomic.Int32
	full := make(chan struct{})
	server, sender := serve(t, func(http.ResponseWriter, *http.Request) {
		if n := now.Add(1); n == delivery.Concurrency && most.Swap(n) < n {
			close(full)
		} else if n > delivery.Concurrency {
			t.Errorf("%d requests at the same time", n)
		}
		<-full
		now.Add(-1)
	})
	for _, r := range sender.Send(t.Context(), batchOf(server.URL, 5*delivery.Concurrency)) {
		require.Equal(t, delivery.Delivered, r.Outcome)
	}
	require.EqualValues(t, delivery.Concurrency, most.Load())
}

// Connections serve several messages of a batch, and no other batch: they are closed at its end.
func TestConnections(t *testing.T) {
	t.Parallel()
	var opened, closed atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = quiet
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			opened.Add(1)
		case http.StateClosed:
			closed.Add(1)
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	sender := senderTo(t, server)
	for batch := range int32(2) {
		const n = 200
		for _, r := range sender.Send(t.Context(), batchOf(server.URL, n)) {
			require.Equal(t, delivery.Delivered, r.Outcome)
		}
		require.Less(t, opened.Load(), (batch+1)*n/2, "connections are used again")
		require.Eventually(t, func() bool { return closed.Load() == opened.Load() }, patience, time.Millisecond)
	}
}

// A server that closes each connection after its second request causes no failed attempt: a message that was not read is sent again.
func TestClosedConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	address, sender, _ := raw(t, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") // keep-alive, and then the connection ends
	})
	for _, r := range sender.Send(t.Context(), batchOf(address, 50)) {
		require.Equal(t, delivery.Result{ID: r.ID, Outcome: delivery.Delivered, Status: 200}, r)
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	t.Run("an unknown authority", func(t *testing.T) {
		t.Parallel()
		server, sender := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the request arrived") })
		sender.Trust(x509.NewCertPool())
		result := sendOne(t, sender, server.URL)
		require.Equal(t, delivery.Failed, result.Outcome)
		require.Contains(t, result.Error, "certificate signed by unknown authority")
	})
	t.Run("another name", func(t *testing.T) {
		t.Parallel()
		server, sender := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the request arrived") })
		result := sendOne(t, sender, "https://localhost"+portOf(server))
		require.Equal(t, delivery.Failed, result.Outcome)
		require.Contains(t, result.Error, "not localhost")
	})
	t.Run("TLS 1.1", func(t *testing.T) {
		t.Parallel()
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the request arrived") }))
		server.Config.ErrorLog = quiet
		server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		server.StartTLS()
		t.Cleanup(server.Close)
		result := sendOne(t, senderTo(t, server), server.URL)
		require.Equal(t, delivery.Failed, result.Outcome)
		require.Equal(t, "the destination refused the TLS handshake: tls: protocol version not supported", result.Error)
	})
	t.Run("no TLS", func(t *testing.T) {
		t.Parallel()
		server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		t.Cleanup(server.Close)
		result := sendOne(t, senderTo(t, server), "https"+strings.TrimPrefix(server.URL, "http"))
		require.Equal(t, delivery.Result{ID: "0", Outcome: delivery.Failed, Error: "the destination does not speak TLS"}, result)
	})
	t.Run("nothing listens", func(t *testing.T) {
		t.Parallel()
		server, sender := serve(t, func(http.ResponseWriter, *http.Request) {})
		server.Close()
		require.Equal(t, delivery.Result{ID: "0", Outcome: delivery.Failed, Error: "the destination refused the connection"}, sendOne(t, sender, server.URL))
	})
}

// A proxy of the environment is not used.
func TestProxyOfTheEnvironment(t *testing.T) {
	var requests atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(proxy.Close)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, proxy.URL)
	}
	server, sender := serve(t, func(http.ResponseWriter, *http.Request) {})
	sender.Resolve(resolver(t, map[string][][]netip.Addr{"example.com.": {{netip.MustParseAddr("127.0.0.1")}}})) // no client uses a proxy for an address on loopback
	require.Equal(t, delivery.Delivered, sendOne(t, sender, "https://example.com"+portOf(server)).Outcome)
	require.Zero(t, requests.Load())
}

func TestRefusedDeliveries(t *testing.T) {
	t.Parallel()
	server, sender := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the request arrived") })
	for _, c := range []struct {
		name, want string
		change     func(*delivery.Batch)
	}{
		{"another kind", "the destination is not of the kind https", func(b *delivery.Batch) { b.Destination.Kind = delivery.SQS }},
		{"a completion", "the delivery has no message", func(b *delivery.Batch) {
			b.Deliveries[0] = delivery.Delivery{ID: "0", Completion: &delivery.Completion{Token: "s3cret"}}
		}},
		{"a line break in a header", "a header of the message is not valid", func(b *delivery.Batch) {
			b.Deliveries[0].Message.Headers = map[string]string{"webhook-id": "s3cret\r\nHost: x"}
		}},
		{"a colon in a header's name", "a header of the message is not valid", func(b *delivery.Batch) {
			b.Deliveries[0].Message.Headers = map[string]string{"Host:": "s3cret"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := batchOf(server.URL, 1)
			c.change(&b)
			require.Equal(t, []delivery.Result{{ID: "0", Outcome: delivery.Refused, Error: c.want}}, sender.Send(t.Context(), b))
		})
	}
	t.Run("no delivery", func(t *testing.T) {
		t.Parallel()
		require.Empty(t, sender.Send(t.Context(), batchOf(server.URL, 0)))
	})
}
