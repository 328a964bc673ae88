package promise_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

var (
	scopes = []promise.Scope{promise.ScopeCreate, promise.ScopeSettle, promise.ScopeRead, promise.ScopeManage}
	verbs  = []promise.Verb{promise.VerbResolve, promise.VerbReject}
)

// subsets are all of them, the empty one included.
func subsets[T any](all []T) [][]T {
	sets := make([][]T, 1<<len(all))
	for n := range sets {
		for i, v := range all {
			if n&(1<<i) != 0 {
				sets[n] = append(sets[n], v)
			}
		}
	}
	return sets
}

// TestMay walks every kind with every set of grants through every need, in the
// credential's tenant and in others, for its promise and for others.
func TestMay(t *testing.T) {
	t.Parallel()
	own, other := uuid.MustParse(id), uuid.MustParse("00000000-0000-4000-8000-000000000001")
	byKey, err := promise.ByIdempotencyKey(id)
	require.NoError(t, err)
	targets := map[string]promise.Identifier{
		"own": promise.ByID(own), "other": promise.ByID(other), "key": byKey, "none": {},
	}
	kinds := []promise.PrincipalKind{
		"", promise.KindAnonymous, promise.KindDirect, promise.KindAPIKey, promise.KindToken, promise.KindDeadline, "root",
	}
	checked := 0
	for _, kind := range kinds {
		for _, granted := range subsets(scopes) {
			for _, allowed := range subsets(verbs) {
				// A key with a token's fields and the reverse: they must not count.
				p := promise.Principal{
					By: promise.By{Kind: kind, ID: "1"}, Tenant: "acme", Scopes: granted, PromiseID: own, Verbs: allowed,
				}
				for _, scope := range append([]promise.Scope{"", "admin"}, scopes...) {
					for _, verb := range append([]promise.Verb{"", "cancel"}, verbs...) {
						for _, tenant := range []string{"acme", "Acme", "demo", ""} {
							for name, target := range targets {
								var want promise.Code
								switch {
								case kind == promise.KindDirect:
								case kind != promise.KindAPIKey && kind != promise.KindToken:
									want = promise.CodeUnauthenticated
								case tenant != "acme":
									want = promise.CodeNotFound
								case kind == promise.KindAPIKey && !slices.Contains(granted, scope):
									want = promise.CodeForbidden
								case kind == promise.KindToken && (!slices.Contains(allowed, verb) || name != "own"):
									want = promise.CodeForbidden
								}
								err := p.May(promise.Need{Scope: scope, Verb: verb}, tenant, target)
								if want == "" {
									require.NoError(t, err, "%+v %s %s %s %s", p, scope, verb, tenant, name)
								} else {
									require.Error(t, err, "%+v %s %s %s %s", p, scope, verb, tenant, name)
									require.Equal(t, want, promise.AsError(err).Code, "%+v %s %s %s %s", p, scope, verb, tenant, name)
								}
								if want == promise.CodeNotFound {
									require.Same(t, promise.ErrNotFound, err, "the same bytes as an unknown promise")
								}
								checked++
							}
						}
					}
				}
			}
		}
	}
	require.Equal(t, 7*16*4*6*4*4*4, checked)
}

func TestMayFailsClosed(t *testing.T) {
	t.Parallel()
	key := promise.Principal{By: promise.By{Kind: promise.KindAPIKey}, Scopes: []promise.Scope{"", "admin", promise.ScopeRead}}
	token := promise.Principal{By: promise.By{Kind: promise.KindToken}, Verbs: []promise.Verb{"", "cancel", promise.VerbResolve}}
	for _, p := range []promise.Principal{key, token} {
		err := p.May(promise.Need{Scope: promise.ScopeRead, Verb: promise.VerbResolve}, "", promise.Identifier{})
		require.Equal(t, promise.ErrNotFound, err, "no tenant is nobody's tenant")
		p.Tenant = "acme"
		for _, need := range []promise.Need{{}, {Scope: "admin", Verb: "cancel"}} {
			err = p.May(need, "acme", promise.Identifier{})
			require.Equal(t, promise.CodeForbidden, promise.AsError(err).Code, "what is no grant cannot be granted")
		}
	}
	err := token.May(promise.Need{Verb: promise.VerbResolve}, "acme", promise.Identifier{})
	require.Equal(t, promise.ErrNotFound, err)
	token.Tenant = "acme"
	err = token.May(promise.Need{Verb: promise.VerbResolve}, "acme", promise.Identifier{})
	require.Equal(t, promise.CodeForbidden, promise.AsError(err).Code, "no promise is nobody's promise")
}

func TestGrants(t *testing.T) {
	t.Parallel()
	for _, s := range scopes {
		require.True(t, s.Valid())
	}
	for _, v := range verbs {
		require.True(t, v.Valid())
	}
	require.False(t, promise.Scope("").Valid())
	require.False(t, promise.Scope("Read").Valid())
	require.False(t, promise.Verb("").Valid())
	require.False(t, promise.Verb("cancel").Valid())
}

// A caller whose credential has expired is not asked to send one: it has sent one.
func TestExpired(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	need := promise.Need{Scope: promise.ScopeSettle, Verb: promise.VerbResolve}
	for _, p := range []promise.Principal{
		{By: promise.By{Kind: promise.KindAPIKey, ID: id}, Tenant: "acme", Scopes: scopes, ExpiresAt: at},
		{By: promise.By{Kind: promise.KindToken, ID: id}, Tenant: "acme", PromiseID: uuid.MustParse(id), Verbs: verbs, ExpiresAt: at},
	} {
		for after, expired := range map[time.Duration]bool{-time.Nanosecond: false, 0: true, time.Hour: true} {
			err := promise.ParsePrincipal(p.Texts(), at.Add(after)).May(need, "acme", promise.ByID(uuid.MustParse(id)))
			if !expired {
				require.NoError(t, err)
				continue
			}
			require.Equal(t, promise.CodeUnauthenticated, promise.AsError(err).Code)
			require.Contains(t, err.Error(), "expired at 2026-11-26T12:00:00Z", p.Kind)
		}
	}
	for _, texts := range []map[string]string{nil, {"kind": "key", "tenant": "acme", "scopes": "settle", "id": "1"}, {"kind": "key", "tenant": "acme", "expiresAt": "never"}} {
		err := promise.ParsePrincipal(texts, at).May(need, "acme", promise.Identifier{})
		require.Contains(t, err.Error(), "Send an API key or a promise token")
	}
}

func TestSee(t *testing.T) {
	t.Parallel()
	text := "text"
	all := promise.Promise{
		ID: uuid.MustParse(id), Name: "payment", State: promise.Rejected, Value: []byte("1"), Message: &text, Comment: &text,
		Metadata: []byte("{}"), OnTimeout: &promise.Result{}, IdempotencyKey: &text, SettledBy: &promise.By{Kind: promise.KindDirect},
	}
	bare := promise.Promise{ID: all.ID, Name: all.Name, State: all.State, IdempotencyKey: &text, SettledBy: all.SettledBy}
	for _, kind := range []promise.PrincipalKind{"", promise.KindAnonymous, promise.KindDirect, promise.KindAPIKey, promise.KindToken, promise.KindDeadline, "root"} {
		for _, granted := range subsets(scopes) {
			p := promise.Principal{By: promise.By{Kind: kind}, Scopes: granted}
			want := bare
			if kind == promise.KindDirect || kind == promise.KindAPIKey && slices.Contains(granted, promise.ScopeRead) {
				want = all
			}
			require.Equal(t, want, p.See(all), "%s %v", kind, granted)
		}
	}
}

func TestSeesOutcome(t *testing.T) {
	t.Parallel()
	token := promise.Principal{By: promise.By{Kind: promise.KindToken, ID: "1"}}
	require.True(t, token.SeesOutcome(&promise.By{Kind: promise.KindToken, ID: "1"}))
	require.False(t, token.SeesOutcome(&promise.By{Kind: promise.KindToken, ID: "2"}))
	require.False(t, token.SeesOutcome(&promise.By{Kind: promise.KindAPIKey, ID: "1"}))
	require.False(t, token.SeesOutcome(nil))
	require.True(t, promise.Principal{By: promise.By{Kind: promise.KindAPIKey}}.SeesOutcome(nil))
	require.True(t, promise.Principal{By: promise.By{Kind: promise.KindDirect}}.SeesOutcome(nil))
}
