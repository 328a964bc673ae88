package promise

import (
	"strconv"
	"time"

	"github.com/google/uuid"
)

// A Source accepts the webhooks of one sender, and settles promises by them.
type Source struct {
	SourceDefinition
	ID        uuid.UUID
	Name      string
	Version   int // each change of the source or of its secrets adds 1
	Enabled   bool
	CreatedAt time.Time
	UpdatedAt time.Time

	// The service writes these three times at most once a minute. They are nil until it
	// does.
	LastReceivedAt *time.Time
	LastVerifiedAt *time.Time
	LastRefusedAt  *time.Time
	LastRefusal    string // the reason at LastRefusedAt
}

// A SourceDefinition says how a source verifies a request, and what it does with it. The
// database stores it as JSON. EventID, Each and the expressions of the rules are CEL.
type SourceDefinition struct {
	Verifier    SourceVerifier `json:"verifier"`
	URL         string         `json:"url,omitempty"`     // the public URL that the sender signs; empty: the source's own
	KeyPrefix   string         `json:"keyPrefix"`         // each key must begin with it
	EventID     string         `json:"eventId,omitempty"` // an expression over body and item; empty: the preset's own, or none
	Each        string         `json:"each,omitempty"`    // an expression for a list of items, each judged singly; empty: the preset's own, or none
	Rules       []SourceRule   `json:"rules"`
	HoldSeconds int            `json:"holdSeconds"` // of a settlement whose key has no promise yet; 0: off
	OnRuleError RuleError      `json:"onRuleError"`
	KeepBody    bool           `json:"keepBody"` // keep each body for a replay; without it, only those whose rule failed
}

// A RuleError says how a source answers if a rule failed after it matched.
type RuleError string

// The answers.
const (
	RuleErrorRefuse RuleError = "refuse" // 422
	RuleErrorAccept RuleError = "accept" // 200
)

// A SourceVerifier names how a source verifies a request. One of its fields is set, and
// beside Preset perhaps ToleranceSeconds.
type SourceVerifier struct {
	Preset           string        `json:"preset,omitempty"`
	ToleranceSeconds *int          `json:"toleranceSeconds,omitempty"` // in place of the preset's own; 0: any time
	HMAC             *HMACVerifier `json:"hmac,omitempty"`
	Bearer           *struct{}     `json:"bearer,omitempty"` // Authorization: Bearer and the secret
	Basic            *BasicUser    `json:"basic,omitempty"`  // Authorization: Basic with this user, and the secret as the password
}

// An HMACVerifier describes a signature that the sender makes with a shared secret.
type HMACVerifier struct {
	Algorithm        string `json:"algorithm"`                  // sha1, sha256 or sha512
	Header           string `json:"header"`                     // the header with the signature
	Prefix           string `json:"prefix,omitempty"`           // before the signature, such as sha256=
	Encoding         string `json:"encoding"`                   // hex, base64 or base64url
	Signed           string `json:"signed"`                     // what is signed, with {body} and perhaps {timestamp} and {url}
	TimestampHeader  string `json:"timestampHeader,omitempty"`  // the header with Unix seconds; needed for {timestamp}
	ToleranceSeconds *int   `json:"toleranceSeconds,omitempty"` // nil: 300
}

// A BasicUser is the user of HTTP's basic authentication.
type BasicUser struct {
	User string `json:"user"`
}

// A SourceRule says what a request does that it matches. The first rule that matches a
// request is applied. A rule with a Preset has nothing else but perhaps HoldSeconds.
type SourceRule struct {
	Preset      string `json:"preset,omitempty"` // the name of ready-made rules, such as stripe.charge
	When        string `json:"when,omitempty"`   // empty: always
	Key         string `json:"key,omitempty"`
	Then        string `json:"then,omitempty"`  // resolve, reject or ignore
	Value       string `json:"value,omitempty"` // of a resolution; empty: the body's bytes
	Error       string `json:"error,omitempty"` // of a rejection; empty: the body's bytes as a text
	HoldSeconds *int   `json:"holdSeconds,omitempty"`
}

// A SourcePreset is what a preset brings beside its verifier.
type SourcePreset struct {
	EventID   string    // see SourceDefinition
	Each      string    // see SourceDefinition
	KeyPrefix string    // of a source that names none
	Handshake Handshake // the request that the sender makes before it sends events
	Generates bool      // the service may make the secret; otherwise the sender makes it
	SignsURL  bool      // the sender signs the public URL
	NoAnswer  bool      // the sender gets an empty body
}

// A Handshake is a kind of request by which a sender checks a URL.
type Handshake string

// The handshakes. The request is verified as every other.
const (
	HandshakeNone  Handshake = ""
	HandshakeSlack Handshake = "slack"  // a body {"type": "url_verification", "challenge": text}; the answer is the challenge
	HandshakeGit   Handshake = "github" // the header x-github-event: ping; the answer says ignored
)

// A WebhookRequest is a request to a source, as it was received.
type WebhookRequest struct {
	// Header has the headers by their names in lower case. API Gateway joins the values
	// of a repeated header by a comma.
	Header map[string]string
	Query  string // as sent, without the question mark
	Body   []byte // before decompression
	URL    string // the public URL of the source, without a query
}

// A Verification is the result of a request that its sender signed.
type Verification struct {
	// SignedID is an event id that is a part of what the sender signed; empty: there is
	// none.
	SignedID string

	// Digest identifies the request: the SHA-256 of the signed bytes. If the sender signs
	// nothing and sends a credential instead, it is that of the query and the body.
	Digest [32]byte
}

// A WebhookInput is what rules see of a request.
type WebhookInput struct {
	Header map[string]string // without credentials; see Verifier
	Query  string            // as sent
	Body   []byte            // a JSON text: the body, or what a form or another text became
}

// A Judgment is what rules decided about one request, or about one item of it.
type Judgment struct {
	EventID string // an id that the body contains; empty: none
	Rule    string // the rule that matched, by its number from 1, or by its name; empty: none
	Then    string // resolve, reject or ignore; ignore if no rule matched
	Key     string
	Result  Result        // to settle with, if Then is resolve or reject
	Hold    time.Duration // how long the settlement waits for its promise; 0: it does not
	Failed  bool          // the rule matched and failed: Reason says why, and Result is empty
	Reason  string        // why rules failed; also of a `when` that counted as false. Empty: none did
}

// A Judged is the judgments about one request.
type Judged struct {
	Items []Judgment

	// Each reports that every element of the list of SourceDefinition.Each has a judgment,
	// in the list's order. Otherwise there is one judgment, of the request as a whole.
	Each bool
}

// The limits of sources.
const (
	MaxSources         = 100     // of a tenant
	MaxSourceRules     = 100     // of a source, after ready-made rules have been expanded
	MaxExpression      = 4096    // bytes of an expression
	MaxSourceItems     = 1000    // items of one request
	MaxHeldBySource    = 2000    // settlements of a source that wait for their promises
	MaxKeptBody        = 1 << 18 // bytes of a body that is kept
	MaxReason          = 500     // bytes of a reason
	MaxEventID         = 200     // bytes of an event id; the digest takes the place of a longer one
	DefaultHoldSeconds = 3600
	KeptBodyAge        = 7 * 24 * time.Hour
)

// SourcesExceeded returns the error of a call that would create more than MaxSources.
func SourcesExceeded() *Error {
	return &Error{
		Code:   CodeQuotaExceeded,
		Detail: "The tenant has reached its limit of sources: " + strconv.Itoa(MaxSources) + ". Delete one first.",
		Quota:  &Quota{Name: "sources", Limit: MaxSources},
	}
}

// HeldBySourceExceeded returns the error of a webhook beyond MaxHeldBySource.
func HeldBySourceExceeded() *Error {
	return &Error{
		Code: CodeQuotaExceeded,
		Detail: "As many settlements of the source wait for their promises as may: " + strconv.Itoa(MaxHeldBySource) +
			". Repeat the call after some have expired, or set holdSeconds of rules whose events belong to no promise to 0.",
		Quota: &Quota{Name: "heldBySource", Limit: MaxHeldBySource},
	}
}

// ErrNoSource is the error of a call that names a source that does not exist.
var ErrNoSource = Fail(CodeNotFound, "There is no such source. List the tenant's sources to see their names.")

// CheckSourceName fails with CodeInvalidName unless name can be a source's: 1 to 40
// letters in lower case, digits and hyphens, with no hyphen at either end.
func CheckSourceName(name string) error {
	if len(name) > 40 || !label.MatchString(name) {
		return Fail(CodeInvalidName, "A source's name must have 1 to 40 lower-case letters, digits and hyphens, and no hyphen at either end.")
	}
	return nil
}

// A SourcePut creates a source or changes the one with its name.
type SourcePut struct {
	ID         uuid.UUID // of a new source
	Name       string
	Definition *SourceDefinition // nil: it stays, and the source must exist
	Enabled    *bool             // nil: it stays; a new source is enabled

	// Secret returns the next secret, sealed, or nil if the source keeps its secrets. It
	// gets the id, the active secrets and the number of the next version. A former secret
	// stays active for Overlap. If two are active, the newest ends at once if useless is
	// true, and otherwise a third is an error.
	Secret  func(id uuid.UUID, active []SourceSecret, version int) (sealed []byte, useless bool, err error)
	Overlap time.Duration
}

// A SourceSecret verifies the requests to a source. The newest version does, and so does
// the one before it until RetireAt.
type SourceSecret struct {
	Version   int
	Sealed    []byte // encrypted; see package seal
	CreatedAt time.Time
	RetireAt  *time.Time // nil: the newest
}

// A SourceTouch is a request that a source has received.
type SourceTouch struct {
	ID      uuid.UUID // of the source that has verified it; unused for a refusal
	Refusal string    // why the request was refused; empty: it was verified
}

// A HeldCount reports which sources have reached MaxHeldBySource, or have it no more.
type HeldCount struct {
	Last    uuid.UUID // the last source that was counted
	Counted int       // sources
	Reached []string  // ids of sources
	Dropped []string  // ids of sources
}
