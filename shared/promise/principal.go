package promise

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// PrincipalKind says how a principal has proven who it is.
type PrincipalKind string

// The kinds. They are stored with what the principal settles.
const (
	KindAnonymous PrincipalKind = "anonymous" // it has proven nothing
	KindDirect    PrincipalKind = "direct"    // it invoked the function itself: IAM let it
	KindAPIKey    PrincipalKind = "key"       // it holds a key of the tenant; its ID is the key's id
	KindToken     PrincipalKind = "token"     // it holds a promise token; its ID is the token's id
	KindDeadline  PrincipalKind = "deadline"  // nobody: the deadline settled the promise

	// KindUnverified stands for a credential that could not be looked up. It may do
	// nothing, and is never stored.
	KindUnverified PrincipalKind = "unverified"
)

// By is what a settlement remembers of the principal that made it.
type By struct {
	Kind PrincipalKind
	ID   string // within the kind; empty where the kind says it all
}

// Principal is who calls, and what was granted to it. The zero Principal may do
// nothing.
type Principal struct {
	By
	Tenant    string    // the slug that an APIKey or a Token is for
	Scopes    []Scope   // of an APIKey
	PromiseID uuid.UUID // the one promise that a Token is for
	Verbs     []Verb    // of a Token
	RawBody   bool      // of a Token: on a callback URL the whole body is the value, or the error
	ExpiresAt time.Time // when the credential is over; zero: never
}

// Texts is the form in which an authorizer hands an APIKey or a Token on to the
// operations. ParsePrincipal reads it.
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

// ParsePrincipal reads what Texts wrote, of a credential that is not over now;
// the ID of both kinds is a UUID. Anything else is Anonymous. An Anonymous principal with an ExpiresAt had a
// credential that expired then.
func ParsePrincipal(texts map[string]string, now time.Time) Principal {
	nobody := Principal{By: By{Kind: KindAnonymous}}
	p := Principal{By: By{Kind: PrincipalKind(texts["kind"]), ID: texts["id"]}, Tenant: texts["tenant"]}
	if s, ok := texts["expiresAt"]; ok {
		at, err := time.Parse(time.RFC3339Nano, s)
		switch {
		case err != nil:
			return nobody
		case !at.After(now):
			nobody.ExpiresAt = at
			return nobody
		}
		p.ExpiresAt = at
	}
	if id, err := ParseID(p.ID); err != nil || id == uuid.Nil {
		return nobody
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
			return nobody
		}
		p.PromiseID = id
		return p
	}
	return nobody
}

// Scope is a part of the service that an API key opens for its whole tenant.
type Scope string

// The scopes.
const (
	ScopeCreate Scope = "create"
	ScopeSettle Scope = "settle"
	ScopeRead   Scope = "read"
	ScopeManage Scope = "manage"
)

// Scopes lists every scope.
var Scopes = []Scope{ScopeCreate, ScopeSettle, ScopeRead, ScopeManage}

// Valid says whether s is one of the scopes.
func (s Scope) Valid() bool { return slices.Contains(Scopes, s) }

// Verb is what a promise token allows to do with its promise.
type Verb string

// The verbs.
const (
	VerbResolve Verb = "resolve"
	VerbReject  Verb = "reject"
)

// Valid says whether v is one of the verbs.
func (v Verb) Valid() bool { return v == VerbResolve || v == VerbReject }

// Need is what an operation asks of whoever calls it.
type Need struct {
	Scope Scope // of an API key
	Verb  Verb  // of a promise token; empty: no token can do it
}

// May decides whether p may do, in a tenant, what needs need to a promise; where
// the operation is about no single promise, target is the zero Identifier. It
// asks no database, so that its answer is the same for a promise that exists
// and for one that does not. It returns nil or
//
//   - CodeUnauthenticated for a principal that has proven nothing;
//   - ErrNotFound where the tenant is another than the credential's;
//   - CodeForbidden for a key without the scope, and for a token without the
//     verb, for another promise, or where the promise is named by its key: which
//     promise that is, only the database could say.
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
			return Fail(CodeForbidden, "A promise token names its promise by id: not by key:.")
		case id == uuid.Nil || id != p.PromiseID:
			return Fail(CodeForbidden, "The promise token is for another promise.")
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

// See returns what p may see of a promise of its tenant. Contents (value, error,
// comment, metadata, OnTimeout) are for direct invokes and for API keys with
// ScopeRead. Every other principal sees the promise without them.
func (p Principal) See(x Promise) Promise {
	if p.Kind == KindDirect || p.Kind == KindAPIKey && slices.Contains(p.Scopes, ScopeRead) {
		return x
	}
	x.Value, x.Message, x.Comment, x.Metadata, x.OnTimeout = nil, nil, nil, nil, nil
	return x
}

// SeesOutcome reports whether p may see the outcome of a settle call of its own
// that found the promise settled by another principal, or by itself earlier. A
// token sees only the outcome of its own settlement: its holder could find out a
// value by trying.
func (p Principal) SeesOutcome(settledBy *By) bool {
	return p.Kind != KindToken || settledBy != nil && *settledBy == p.By
}
