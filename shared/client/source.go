package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"iter"
	"time"

	"github.com/google/uuid"
)

// A SourceDefinition says how a source verifies a webhook, and what it does with it.
// Empty fields have the defaults of "Sources" in functions/README.md.
type SourceDefinition struct {
	Verifier    Verifier `json:"verifier"`
	SignedURL   string   `json:"signedUrl"` // the public URL that the sender signs, if it calls another one than the source's
	KeyPrefix   string   `json:"keyPrefix"` // each key must begin with it
	EventID     string   `json:"eventId"`   // an expression in CEL, as Each and those of Rules
	Each        string   `json:"each"`
	Rules       []Rule   `json:"rules"`       // the first one that matches is applied; none: every request is ignored
	HoldSeconds *int     `json:"holdSeconds"` // how long a settlement waits for its promise; nil: 3600
	OnRuleError string   `json:"onRuleError"` // refuse or accept
	KeepBody    bool     `json:"keepBody"`    // keep each body for a replay
}

// A Verifier names how a source verifies a webhook. One field is set, and beside Preset
// perhaps ToleranceSeconds.
type Verifier struct {
	Preset           string     `json:"preset,omitempty"` // stripe, github, ...
	ToleranceSeconds *int       `json:"toleranceSeconds,omitempty"`
	HMAC             *HMAC      `json:"hmac,omitempty"`
	Bearer           *struct{}  `json:"bearer,omitempty"`
	Basic            *BasicUser `json:"basic,omitempty"`
}

// An HMAC describes a signature that the sender makes with a shared secret.
type HMAC struct {
	Algorithm        string `json:"algorithm"` // sha1, sha256 or sha512
	Header           string `json:"header"`    // in lower case
	Prefix           string `json:"prefix,omitempty"`
	Encoding         string `json:"encoding"` // hex, base64 or base64url
	Signed           string `json:"signed"`   // with {body}, and perhaps {timestamp} and {url}
	TimestampHeader  string `json:"timestampHeader,omitempty"`
	ToleranceSeconds *int   `json:"toleranceSeconds,omitempty"`
}

// A BasicUser is the user of HTTP's basic authentication.
type BasicUser struct {
	User string `json:"user"`
}

// A Rule says what a source does with a webhook. The expressions are CEL.
type Rule struct {
	Preset      string `json:"preset,omitempty"` // ready-made rules, such as stripe.charge
	When        string `json:"when,omitempty"`
	Key         string `json:"key,omitempty"`
	Then        string `json:"then,omitempty"` // resolve, reject or ignore
	Value       string `json:"value,omitempty"`
	Error       string `json:"error,omitempty"`
	HoldSeconds *int   `json:"holdSeconds,omitempty"`
}

// A Source accepts the webhooks of one sender, and settles promises by them.
type Source struct {
	SourceDefinition
	SourceID       uuid.UUID `json:"sourceId"`
	Name           string    `json:"name"`
	URL            string    `json:"url"` // the place to which the sender posts
	Enabled        bool      `json:"enabled"`
	CreatedAt      time.Time `json:"createdAt"`
	UpdatedAt      time.Time `json:"updatedAt"`
	LastReceivedAt time.Time `json:"lastReceivedAt"`
	LastVerifiedAt time.Time `json:"lastVerifiedAt"`
	LastRefusedAt  time.Time `json:"lastRefusedAt"`
	LastRefusal    string    `json:"lastRefusal"`

	Secrets []SecretVersion `json:"secrets"` // empty: the source waits for the sender's secret; not of Sources
	Secret  string          `json:"secret"`  // only in the answer to the call that made it
	New     bool            `json:"created"` // PutSource: this call created it
}

// add adds the fields of the definition as a put takes them.
func (d SourceDefinition) add(f *fields) {
	f.value("verifier", d.Verifier)
	f.optional("url", d.SignedURL)
	f.optional("keyPrefix", d.KeyPrefix)
	f.optional("eventId", d.EventID)
	f.optional("each", d.Each)
	f.value("rules", append([]Rule{}, d.Rules...))
	if d.HoldSeconds != nil {
		f.number("holdSeconds", int64(*d.HoldSeconds))
	}
	f.optional("onRuleError", d.OnRuleError)
	f.flag("keepBody", d.KeepBody)
}

// PutSource creates a source, or replaces its definition. secret is the sender's. If it is
// empty, the source keeps the secrets that it has. Then a new source of some presets gets
// a secret that the service makes, and only this answer has it.
//
// So the client does not repeat a put without a secret that may have been applied. If the
// error says MaybeApplied and a second put returns no secret, RotateSourceSecret makes
// another.
func (c *Client) PutSource(ctx context.Context, name string, d SourceDefinition, secret string) (Source, error) {
	var f fields
	d.add(&f)
	f.optional("secret", secret)
	return c.source(ctx, Request{Action: "put-source", Method: "PUT", Body: f.list, Once: secret == "", err: f.err}, name, "")
}

// EnableSource disables a source, so that it refuses every request, or enables it again.
// It may be repeated, and takes effect within 30 s.
func (c *Client) EnableSource(ctx context.Context, name string, enabled bool) (Source, error) {
	var f fields
	f.flag("enabled", enabled)
	return c.source(ctx, Request{Action: "put-source", Method: "PUT", Body: f.list}, name, "")
}

// GetSource returns a source and the versions of its secrets.
func (c *Client) GetSource(ctx context.Context, name string) (Source, error) {
	return c.source(ctx, Request{Action: "get-source", Method: "GET"}, name, "")
}

func (c *Client) source(ctx context.Context, r Request, name, verb string) (s Source, err error) {
	return s, c.manage(ctx, r, "sources", name, verb, &s)
}

// Sources returns the tenant's sources, by name, as List does.
func (c *Client) Sources(ctx context.Context) iter.Seq2[Source, error] {
	return pages[Source](ctx, c, Request{Function: integrations, Action: "list-sources", Path: "/sources"}, "sources", nil, 0)
}

// DeleteSource deletes a source. Within 30 s every webhook to it is refused. It may be
// repeated, as DeleteDestination.
func (c *Client) DeleteSource(ctx context.Context, name string) error {
	return c.remove(ctx, "delete-source", "sources", name)
}

// RotateSourceSecret gives a source the sender's new secret, or one that the service makes
// if secret is empty. The former one stays active for the overlap.
//
// A rotation to a given secret may be repeated. Each rotation without one is another one,
// as RotateDestinationSecret.
func (c *Client) RotateSourceSecret(ctx context.Context, name, secret string, rotation Rotation) (Source, error) {
	f := fields{list: []Field{}}
	f.optional("secret", secret)
	rotation.add(&f)
	// With ReplaceVersion, a repeated rotation to the same secret is a conflict.
	once := secret == "" || rotation.ReplaceVersion != 0
	return c.source(ctx, Request{Action: "rotate-source-secret", Method: "POST", Body: f.list, Once: once, err: f.err}, name, "/rotate-secret")
}

// A SourceTest is a request to try on a source.
type SourceTest struct {
	Headers    map[string]string // the signature, and the content type
	Query      string            // of the URL, without the question mark
	Body       []byte
	Definition *SourceDefinition // tried in place of the source's own; nil: the source's own
}

// A SourceTestResult says what a request to a source would do.
type SourceTestResult struct {
	Verified  bool             `json:"verified"`
	Reason    string           `json:"reason"` // why it is not verified
	Disabled  bool             `json:"disabled"`
	Handshake string           `json:"handshake"`
	Each      bool             `json:"each"`
	Items     []SourceTestItem `json:"items"`
	More      bool             `json:"more"`
}

// A SourceTestItem says what a request, or one item of it, would do.
type SourceTestItem struct {
	Event     string          `json:"event"`
	Item      int             `json:"item"`
	Rule      string          `json:"rule"`
	Then      string          `json:"then"`
	Key       string          `json:"key"`
	Value     json.RawMessage `json:"value"`
	Error     string          `json:"error"`
	Outcome   ReceiptOutcome  `json:"outcome"`
	PromiseID uuid.UUID       `json:"promiseId"`
	Repeated  bool            `json:"repeated"`
	Reason    string          `json:"reason"`
}

// TestSource returns what a request to a source would do, and writes nothing. A request that
// is not verified is no error. It may be repeated.
func (c *Client) TestSource(ctx context.Context, name string, test SourceTest) (SourceTestResult, error) {
	var f fields
	if test.Headers != nil {
		f.value("headers", test.Headers)
	}
	f.optional("query", test.Query)
	f.text("bodyBase64", base64.StdEncoding.EncodeToString(test.Body))
	if test.Definition != nil {
		var d fields
		test.Definition.add(&d)
		f.nested("definition", d)
	}
	var result SourceTestResult
	err := c.manage(ctx, Request{Action: "test-source", Method: "POST", Body: f.list, err: f.err}, "sources", name, "/test", &result)
	return result, err
}
