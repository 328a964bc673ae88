package promise

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// A PrincipalKind names the proof of identity that a principal gave.
type PrincipalKind string

// The kinds. A settlement stores the kind of its principal.
const (
	KindAnonymous PrincipalKind = "anonymous" // no valid credential
	KindDirect    PrincipalKind = "direct"    // a direct invoke, which IAM authorized
	KindAPIKey    PrincipalKind = "key"       // an API key of the tenant; ID is the key's id
	KindToken     PrincipalKind = "token"     // a promise token; ID is the token's id
	KindDeadline  PrincipalKind = "deadline"  // no caller: the deadline settled the promise
	KindWebhook   PrincipalKind = "webhook"   // a webhook; ID is the source's name

	// KindUnverified is a credential whose lookup failed. It authorizes nothing and
	// is never stored.
	KindUnverified PrincipalKind = "unverified"
)

// By is the part of a principal that its settlements store.
type By struct {
	Kind PrincipalKind
	ID   string // the credential's id; empty for kinds without a credential
}

// A Principal is a caller with its grants. The zero Principal may do nothing.
type Principal struct {
	By
	Tenant    string    // KindAPIKey, KindToken: the slug of the credential's tenant
	Scopes    []Scope   // KindAPIKey
	PromiseID uuid.UUID // KindToken: the one promise that it may settle
	Verbs     []Verb    // KindToken
	RawBody   bool      // KindToken: on a callback URL the whole body is the value, or the error
	ExpiresAt time.Time // the credential expires then; zero: never
}

// Texts returns a principal of KindAPIKey or KindToken as the map of strings that
// an authorizer can pass to a function. ParsePrincipal reads it.
func (p Principal) Texts() map[string]string {
	texts := map[string]string{"kind": string(p.Kind), "id": p.ID, "tenant": p.Tenant}
	if !p.ExpiresAt.IsZero() {
		texts["expiresAt"] = p.ExpiresAt.UTC().Format(time.RFC3339Nano)
	}
	switch p.Kind {
	case KindAPIKey:
		texts["scopes"] = join(p.Scopes)
	case KindToken:
		texts["promiseId"], texts["verbs"] = p.PromiseID.String(), join(p.Verbs)
	}
	return texts
}

func join[T ~string](list []T) string {
	texts := make([]string, len(list))
	for i, t := range list {
		texts[i] = string(t)
	}
	return strings.Join(texts, " ")
}

// ParsePrincipal parses the map that Texts returned. It returns a principal of
// KindAnonymous for every other map, for an ID that is not a UUID, and for a
// credential that has expired by now. In the last case ExpiresAt is set.
func ParsePrincipal(texts map[string]string, now time.Time) Principal {
	anonymous := Principal{By: By{Kind: KindAnonymous}}
	p := Principal{By: By{Kind: PrincipalKind(texts["kind"]), ID: texts["id"]}, Tenant: texts["tenant"]}
	if s, ok := texts["expiresAt"]; ok {
		at, err := time.Parse(time.RFC3339Nano, s)
		switch {
		case err != nil:
			return anonymous
		case !at.After(now):
			anonymous.ExpiresAt = at
			return anonymous
		}
		p.ExpiresAt = at
	}
	if id, err := ParseID(p.ID); err != nil || id == uuid.Nil {
		return anonymous
	}
	switch p.Kind {
	case KindAPIKey:
		for _, s := range strings.Fields(texts["scopes"]) {
			p.Scopes = append(p.Scopes, Scope(s))
		}
		return p
	case KindToken:
		for _, v := range strings.Fields(texts["verbs"]) {
			p.Verbs = append(p.Verbs, Verb(v))
		}
		id, err := ParseID(texts["promiseId"])
		if err != nil {
			return anonymous
		}
		p.PromiseID = id
		return p
	}
	return anonymous
}

// A Scope is a group of operations that an API key authorizes in its tenant.
type Scope string

// The scopes.
const (
	ScopeCreate  Scope = "create"
	ScopeSettle  Scope = "settle"
	ScopeRead    Scope = "read"
	ScopeManage  Scope = "manage"
	ScopeDeliver Scope = "deliver"
)

// Scopes lists every scope.
var Scopes = []Scope{ScopeCreate, ScopeSettle, ScopeRead, ScopeManage, ScopeDeliver}

// Valid reports whether s is one of the scopes.
func (s Scope) Valid() bool { return slices.Contains(Scopes, s) }

// A Verb is an operation that a promise token authorizes on its promise.
type Verb string

// The verbs.
const (
	VerbResolve Verb = "resolve"
	VerbReject  Verb = "reject"
)

// Valid reports whether v is one of the verbs.
func (v Verb) Valid() bool { return v == VerbResolve || v == VerbReject }

// A Need is the grant that an operation requires.
type Need struct {
	Scope Scope // required of an API key
	Verb  Verb  // required of a promise token; empty: no token is enough
}

// May decides whether p may call an operation that requires need, on the promise
// target of a tenant. target is the zero Identifier if the operation concerns no
// single promise. May reads no database, so that its result is the same for a
// promise that exists and for one that does not. It returns nil or
//
//   - CodeUnauthenticated for a principal without a valid credential;
//   - CodeUnavailable for KindUnverified;
//   - ErrNotFound if the tenant is not the credential's tenant;
//   - CodeForbidden for an API key without the scope, and for a promise token
//     without the verb, for another promise, or for a promise named by its
//     idempotency key, because only the database knows the promise of a key.
func (p Principal) May(need Need, tenant string, target Identifier) error {
	switch p.Kind {
	case KindDirect:
		return nil
	case KindAPIKey:
		switch {
		case p.Tenant == "" || p.Tenant != tenant:
			return ErrNotFound
		case !need.Scope.Valid() || !slices.Contains(p.Scopes, need.Scope):
			return Fail(CodeForbidden, "The API key does not have the scope "+string(need.Scope)+".")
		}
		return nil
	case KindToken:
		id, byID := target.ID()
		switch {
		case p.Tenant == "" || p.Tenant != tenant:
			return ErrNotFound
		case !need.Verb.Valid() || !slices.Contains(p.Verbs, need.Verb):
			return Fail(CodeForbidden, "The promise token does not allow this operation.")
		case !byID:
			return Fail(CodeForbidden, "With a promise token, name the promise by id:<promise id>, not by key.")
		case id == uuid.Nil || id != p.PromiseID:
			return Fail(CodeForbidden, "The promise token is for another promise. Send the token that was issued for this one.")
		}
		return nil
	case KindUnverified:
		return Fail(CodeUnavailable, "The credential cannot be checked at the moment. Repeat the call.")
	default:
		if !p.ExpiresAt.IsZero() {
			return Fail(CodeUnauthenticated, "The API key or promise token expired at "+p.ExpiresAt.UTC().Format(time.RFC3339)+
				". Send one that is valid.")
		}
		return Fail(CodeUnauthenticated, "Send an API key or a promise token: Authorization: Bearer <credential>.")
	}
}

// See returns the part of a promise of its tenant that p may see. Direct invokes
// and API keys with ScopeRead see the contents too: value, message, comment,
// metadata, OnTimeout and the deliveries. Every other principal sees the promise
// without them.
func (p Principal) See(x Promise) Promise {
	if p.seesContents() {
		return x
	}
	x.Value, x.Message, x.Comment, x.Metadata, x.OnTimeout, x.Deliveries = nil, nil, nil, nil, nil, nil
	return x
}

// SeeDelivery returns the part of a delivery of its tenant that p may see. LastError
// may quote the receiver, so it is for those who see a promise's contents.
func (p Principal) SeeDelivery(d Delivery) Delivery {
	if !p.seesContents() {
		d.LastError = nil
	}
	return d
}

func (p Principal) seesContents() bool {
	return p.Kind == KindDirect || p.Kind == KindAPIKey && slices.Contains(p.Scopes, ScopeRead)
}

// SeesOutcome reports whether p may see the outcome of its settle call on a promise
// that settledBy had settled before. A promise token sees only the outcome of its
// own settlement: otherwise its holder could find out a value by trying.
func (p Principal) SeesOutcome(settledBy *By) bool {
	return p.Kind != KindToken || settledBy != nil && *settledBy == p.By
}
