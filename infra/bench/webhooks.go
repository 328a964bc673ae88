package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// A webhookTest posts webhooks to a source of the demo tenant, and settles by key beside them.
type webhookTest struct {
	service *runner
	client  tenantClient
	url     string // the source's
}

// webhookSecret is the secret of the source. Stripe's secrets look like this.
const webhookSecret = "whsec_benchmark" // it signs on this machine only

// settlingWebhookOperations is the number of webhookTest's operations that need pending promises.
const settlingWebhookOperations = 2

// measureWebhooks measures a settlement by a webhook beside one by key with the same value, and webhooks that are refused.
func measureWebhooks(ctx context.Context, c *cluster, o options, screen *progress) (_ webhookReport, err error) {
	report := webhookReport{Machine: thisMachine(ctx, c)}
	db, err := c.load(ctx, o.webhookPromises(), 10, screen)
	if err != nil {
		return report, err
	}
	p, err := build(ctx, c.dir, screen)
	if err != nil {
		return report, err
	}
	service, err := p.startLocal(ctx, db.url)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, service.stop()) }()
	w := &webhookTest{service: service, client: tenantClient{http: service.client, url: service.HTTPURL + "/api/tenants/" + tenant, key: service.APIKey}}
	if err := w.putSource(ctx); err != nil {
		return report, err
	}
	m, err := newMeter(ctx, db)
	if err != nil {
		return report, err
	}
	defer m.monitor.Close()
	if m.callers, err = process.NewProcess(int32(service.cmd.Process.Pid)); err != nil {
		return report, err
	}
	operations := chosen(w.operations(db), o)
	for i := range operations {
		operations[i].db, operations[i].meter = db, m
	}
	for _, clients := range o.clients {
		rows, err := inTurns(ctx, operations, clients, o.callsHTTP(), screen)
		if err != nil {
			return report, err
		}
		report.Rows = append(report.Rows, rows...)
	}
	return report, nil
}

// webhookPromises returns the number of promises that --webhooks settles.
func (o options) webhookPromises() (n int) {
	for _, clients := range o.clients {
		n += settlingWebhookOperations * (o.callsHTTP() + uncountedCalls(clients))
	}
	return n
}

// putSource creates the source.
func (w *webhookTest) putSource(ctx context.Context) error {
	status, text, err := w.client.call(ctx, http.MethodPut, "/sources/stripe",
		`{"verifier":{"preset":"stripe"},"secret":"`+webhookSecret+`","rules":[{"preset":"stripe.charge"}]}`)
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("PUT of the source answered %d %s", status, text)
	}
	if err != nil {
		return err
	}
	var made struct{ URL string }
	err = json.Unmarshal(text, &made)
	w.url = made.URL
	return err
}

// charge returns the body of the webhook for the promise with a number.
func charge(n int) string {
	id := strings.TrimPrefix(promiseKey(n), "stripe:")
	return `{"id":"evt_` + strconv.Itoa(n) + `","object":"event","type":"charge.succeeded","created":1795000000,"livemode":false,"data":{"object":{"id":"` + id +
		`","object":"charge","amount":4200,"captured":true,"currency":"eur","paid":true,"status":"succeeded"}}}`
}

func (w *webhookTest) operations(db *dataset) []operation {
	segment := w.url[strings.LastIndexByte(w.url, '/')+1:]
	return []operation{
		{name: "HTTP: settle by key", settles: true, call: func(ctx context.Context, n int) error {
			n = db.spread(n)
			var got settled
			status, err := w.service.post(ctx, w.service.promises("/key:"+promiseKey(n)+"/resolve"), `{"value":`+charge(n)+`}`, &got)
			return expect(status, http.StatusOK, got, "settled", err)
		}},
		{name: "HTTP: webhook", settles: true, call: func(ctx context.Context, n int) error {
			var got settled
			status, err := w.post(ctx, w.url, webhookSecret, charge(db.spread(n)), &got)
			return expect(status, http.StatusOK, got, "settled", err)
		}},
		{name: "HTTP: webhook, wrong signature", call: func(ctx context.Context, n int) error {
			status, err := w.post(ctx, w.url, "whsec_another", charge(n), nil)
			return expect(status, http.StatusUnauthorized, settled{}, "", err)
		}},
		{name: "HTTP: webhook, invented source", call: func(ctx context.Context, n int) error {
			url := strings.TrimSuffix(w.url, segment) + "invented-" + strconv.Itoa(n) + segment[strings.LastIndexByte(segment, '-'):]
			status, err := w.post(ctx, url, webhookSecret, charge(n), nil)
			return expect(status, http.StatusUnauthorized, settled{}, "", err)
		}},
	}
}

// expect returns an error unless the answer has the status and the outcome.
func expect(status, want int, got settled, outcome string, err error) error {
	if err == nil && (status != want || got.Outcome != outcome) {
		err = fmt.Errorf("answered %d %q", status, got.Outcome)
	}
	return err
}

// post posts a webhook, signed as Stripe does.
func (w *webhookTest) post(ctx context.Context, url, secret, body string, answer any) (status int, err error) {
	at := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(at + "." + body))
	return w.service.postWith(ctx, url, body, http.Header{"Stripe-Signature": {"t=" + at + ",v1=" + hex.EncodeToString(mac.Sum(nil))}}, answer)
}

// A webhookReport compares webhooks with settlements by key. Its rows have no statements and no ratios.
type webhookReport struct {
	Machine machine `json:"machine"`
	Rows    []row   `json:"rows"`
}

func (r webhookReport) table(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\n", r.Machine)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "clients\toperation\ta second\tp50 ms\tp95 ms\tp99 ms\tWAL bytes\tCPU ms: runner and functions\tPostgres\t")
	for _, r := range r.Rows {
		fmt.Fprintf(t, "%d\t%s\t%.0f\t%.2f\t%.2f\t%.2f\t%.0f\t%.3f\t%.3f\t\n", r.Clients, r.Operation, r.OpsPerSecond,
			r.P50Ms, r.P95Ms, r.P99Ms, r.WALBytes, r.FunctionCPUMs, r.PostgresCPUMs)
	}
	return t.Flush()
}
