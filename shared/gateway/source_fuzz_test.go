package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"regexp"
	"slices"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

func (r *destinationRecorder) PutSource(_ context.Context, tenant string, p promise.SourcePut) (promise.Source, []promise.SourceSecret, bool, error) {
	if _, _, err := p.Secret(p.ID, nil, 1); err != nil {
		return promise.Source{}, nil, false, err
	}
	r.note("PutSource", tenant, p.Name, p.Definition, p.Enabled)
	return promise.Source{Name: p.Name}, nil, true, nil
}

func (r *destinationRecorder) GetSource(_ context.Context, tenant, name string) (promise.Source, []promise.SourceSecret, error) {
	r.note("GetSource", tenant, name)
	return promise.Source{ID: uuid.UUID{4}, Name: name, SourceDefinition: fuzzedSource}, nil, nil
}

// fuzzedSource is the definition of every source of a destinationRecorder.
var fuzzedSource = promise.SourceDefinition{
	Verifier: promise.SourceVerifier{Bearer: &struct{}{}}, KeyPrefix: "a", Rules: []promise.SourceRule{{Key: "'a' + string(body.id)", Then: "resolve"}},
}

func (r *destinationRecorder) ListSources(_ context.Context, tenant string) ([]promise.Source, error) {
	r.note("ListSources", tenant)
	return nil, nil
}

func (r *destinationRecorder) DeleteSource(_ context.Context, tenant, name string) (uuid.UUID, error) {
	r.note("DeleteSource", tenant, name)
	return uuid.UUID{}, nil
}

func (r *destinationRecorder) RotateSourceSecret(
	_ context.Context, tenant, name string, rotation promise.Rotation, seal func(uuid.UUID, int) ([]byte, error),
) (promise.Source, []promise.SourceSecret, error) {
	if _, err := seal(uuid.UUID{}, 1); err != nil {
		return promise.Source{}, nil, err
	}
	r.note("RotateSourceSecret", tenant, name, rotation)
	return promise.Source{Name: name}, nil, nil
}

func (r *destinationRecorder) PreviewReceipt(context.Context, string, promise.ReceiptDraft) (promise.ReceiptResult, error) {
	return promise.ReceiptResult{Outcome: promise.ReceiptNotFound}, nil
}

func (r *destinationRecorder) GetReceipt(context.Context, string, uuid.UUID) (promise.Receipt, *promise.KeptBody, error) {
	return promise.Receipt{}, nil, promise.ErrNotFound
}

var definitionNames = []string{"verifier", "url", "keyPrefix", "eventId", "each", "rules", "holdSeconds", "onRuleError", "keepBody"}

// sourceSeeds are calls about sources beside the sample events.
var sourceSeeds = func() (seeds []string) {
	const put = `{"tenant":"demo","action":"put-source","name":"a"`
	for _, fields := range []string{
		`}`, `,"enabled":false}`, `,"enabled":false,"verifier":{"bearer":{}},"rules":[]}`, `,"verifier":{"bearer":{"a":1}},"rules":[{}]}`,
		`,"verifier":{"basic":{"user":"\u0000"}},"rules":[{"when":"","then":"ignore"}],"holdSeconds":6e1,"keepBody":true,"onRuleError":"accept"}`,
		`,"verifier":{"preset":"twilio","toleranceSeconds":1},"rules":[{"preset":"slack.button","holdSeconds":0}],"url":"https://a.example/"}`,
	} {
		seeds = append(seeds, put+fields)
	}
	return append(seeds,
		`{"tenant":"demo","action":"test-source","name":"a","headers":{"A":"b"},"body":"{\"id\":[[]]}","query":"?a=%"}`,
		`{"tenant":"demo","action":"test-source","name":"a","bodyBase64":"H4sIAAAAAAAA","definition":{"verifier":{"bearer":{}},"rules":[],"each":"body"}}`,
		`{"tenant":"demo","action":"rotate-source-secret","name":"a-1","secret":"12345678","overlapSeconds":1}`,
		`{"tenant":"demo","action":"replay-receipt","receiptId":"x"}`,
	)
}()

// sourceCall reads a call about a source, and sets the store call that must follow.
func (o *oracle) sourceCall(action, name string, c *storeCall) {
	args := []any{name}
	switch action {
	case "list-sources":
		o.integer(o.body, false, "limit", 1, 100)
		o.refuse(o.text("cursor") != nil)
		c.method, args = "ListSources", nil
	case "get-source":
		c.method = "GetSource"
	case "delete-source":
		c.method = "DeleteSource"
	case "put-source":
		c.method, args = "PutSource", o.sourcePut(name)
	default:
		o.unread = true
	}
	c.args = args
}

func (o *oracle) sourcePut(name string) []any {
	enabled, alone := o.enabled(), true
	for _, field := range append([]string{"secret"}, definitionNames...) {
		alone = alone && o.body[field] == nil
	}
	if alone && enabled != nil {
		return []any{name, (*promise.SourceDefinition)(nil), enabled}
	}
	d := promise.SourceDefinition{HoldSeconds: 3600, OnRuleError: "refuse", Rules: []promise.SourceRule{}}
	o.strict("verifier", o.body["verifier"], &d.Verifier)
	for field, to := range map[string]*string{
		"url": &d.URL, "keyPrefix": &d.KeyPrefix, "eventId": &d.EventID, "each": &d.Each, "onRuleError": (*string)(&d.OnRuleError),
	} {
		if s := o.text(field); s != nil {
			o.refuse(*s == "")
			*to = *s
		}
	}
	o.refuse(d.OnRuleError != "refuse" && d.OnRuleError != "accept")
	d.HoldSeconds = int(o.orDefault(o.integer(o.body, false, "holdSeconds", 0, 604_800), 3600))
	if raw := o.body["keepBody"]; raw != nil {
		o.refuse(string(raw) != "true" && string(raw) != "false")
		d.KeepBody = string(raw) == "true"
	}
	o.strict("rules", o.body["rules"], &d.Rules)
	secret := o.text("secret")
	if !o.refused {
		o.refuse(o.webhooks.CheckDefinition(name, &d) != nil)
	}
	if !o.refused && secret != nil {
		_, _, err := o.webhooks.NewSecret(context.Background(), d.Verifier, uuid.UUID{}, 1, secret)
		o.refuse(err != nil)
	}
	return []any{name, &d, enabled}
}

// strict decodes a field with encoding/json. Texts, numbers and objects that are null,
// empty or doubled make the oracle unread, because encoding/json reads them in another
// way.
func (o *oracle) strict(name string, raw json.RawMessage, to any) {
	if raw == nil {
		o.refused = true
		return
	}
	o.unread = o.unread || bytes.Contains(raw, []byte("null")) || bytes.Contains(raw, []byte(`""`)) || bytes.ContainsAny(raw, `\`) ||
		doubled(json.NewDecoder(bytes.NewReader(raw))) || misspelt(raw) || wideNumber.Match(raw)
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	o.refuse(dec.Decode(to) != nil)
	if v, ok := to.(*promise.SourceVerifier); ok && v.HMAC != nil {
		o.refuse(v.HMAC.Algorithm == "" || v.HMAC.Header == "" || v.HMAC.Encoding == "" || v.HMAC.Signed == "")
	}
}

var (
	memberName = regexp.MustCompile(`"([A-Za-z]*)"\s*:`)
	wideNumber = regexp.MustCompile(`[0-9][.eE]`)
)

// misspelt reports whether a member's name is not one of a definition. encoding/json
// would accept it in another case.
func misspelt(raw []byte) bool {
	for _, m := range memberName.FindAllSubmatch(raw, -1) {
		if !slices.Contains(memberNames, string(m[1])) {
			return true
		}
	}
	return false
}

var memberNames = []string{
	"preset", "toleranceSeconds", "hmac", "bearer", "basic", "user", "algorithm", "header", "prefix", "encoding", "signed", "timestampHeader",
	"when", "key", "then", "value", "error", "holdSeconds",
}
