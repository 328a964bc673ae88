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
	scopes = []promise.Scope{promise.ScopeCreate, promise.ScopeSettle, promise.ScopeRead, promise.ScopeManage, promise.ScopeDeliver}
	verbs  = []promise.Verb{promise.VerbResolve, promise.VerbReject}
)

// subsets returns every subset, the empty one included.
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

// TestMay asks May for every kind with every set of grants and every need, in the
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
		"", promise.KindAnonymous, promise.KindDirect, promise.KindAPIKey, promise.KindToken, promise.KindDeadline, promise.KindUnverified, "root",
	}
	checked := 0
	for _, kind := range kinds {
		for _, granted := range subsets(scopes) {
			for _, allowed := range subsets(verbs) {
				// An API key with a token's fields, and the reverse: those fields must not count.
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
								case kind == promise.KindUnverified:
									want = promise.CodeUnavailable
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
	require.Equal(t, 8*32*4*7*4*4*4, checked)
}

func TestMayFailsClosed(t *testing.T) {
	t.Parallel()
	key := promise.Principal{By: promise.By{Kind: promise.KindAPIKey}, Scopes: []promise.Scope{"", "admin", promise.ScopeRead}}
	token := promise.Principal{By: promise.By{Kind: promise.KindToken}, Verbs: []promise.Verb{"", "cancel", promise.VerbResolve}}
	for name, p := range map[string]promise.Principal{"API key": key, "token": token} {
		t.Run(name+" without a tenant matches no tenant", func(t *testing.T) {
			need := promise.Need{Scope: promise.ScopeRead, Verb: promise.VerbResolve}
			require.Equal(t, promise.ErrNotFound, p.May(need, "", promise.Identifier{}))
			require.Equal(t, promise.ErrNotFound, p.May(need, "acme", promise.Identifier{}))
		})
		p.Tenant = "acme"
		for what, need := range map[string]promise.Need{"no grant": {}, "unknown grants": {Scope: "admin", Verb: "cancel"}} {
			t.Run(name+" is forbidden where the operation needs "+what, func(t *testing.T) {
				err := p.May(need, "acme", promise.Identifier{})
				require.Equal(t, promise.CodeForbidden, promise.AsError(err).Code)
			})
		}
	}
	t.Run("token without a promise matches no promise", func(t *testing.T) {
		token := token
		token.Tenant = "acme"
		err := token.May(promise.Need{Verb: promise.VerbResolve}, "acme", promise.Identifier{})
		require.Equal(t, promise.CodeForbidden, promise.AsError(err).Code)
	})
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

// TestExpiredCredential: the error of a caller whose credential has expired says so, and does not ask for a credential.
func TestExpiredCredential(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	need := promise.Need{Scope: promise.ScopeSettle, Verb: promise.VerbResolve}
	for _, p := range []promise.Principal{
		{By: promise.By{Kind: promise.KindAPIKey, ID: id}, Tenant: "acme", Scopes: scopes, ExpiresAt: at},
		{By: promise.By{Kind: promise.KindToken, ID: id}, Tenant: "acme", PromiseID: uuid.MustParse(id), Verbs: verbs, ExpiresAt: at},
	} {
		for after, expired := range map[time.Duration]bool{-time.Nanosecond: false, 0: true, time.Hour: true} {
			t.Run(string(p.Kind)+" "+after.String()+" after it expires", func(t *testing.T) {
				err := promise.ParsePrincipal(p.Texts(), at.Add(after)).May(need, "acme", promise.ByID(uuid.MustParse(id)))
				if !expired {
					require.NoError(t, err)
					return
				}
				require.Equal(t, promise.CodeUnauthenticated, promise.AsError(err).Code)
				require.Contains(t, err.Error(), "expired at 2026-11-26T12:00:00Z")
			})
		}
	}
	for name, texts := range map[string]map[string]string{
		"no credential":         nil,
		"an id that is no UUID": {"kind": "key", "tenant": "acme", "scopes": "settle", "id": "1"},
		"an invalid expiry":     {"kind": "key", "tenant": "acme", "expiresAt": "never"},
	} {
		t.Run("asks for a credential with "+name, func(t *testing.T) {
			err := promise.ParsePrincipal(texts, at).May(need, "acme", promise.Identifier{})
			require.Contains(t, err.Error(), "Send an API key or a promise token")
		})
	}
}

func TestSee(t *testing.T) {
	t.Parallel()
	text := "text"
	all := promise.Promise{
		ID: uuid.MustParse(id), Name: "payment", State: promise.Rejected, Value: []byte("1"), Message: &text, Comment: &text,
		Metadata: []byte("{}"), OnTimeout: &promise.Result{}, IdempotencyKey: &text, SettledBy: &promise.By{Kind: promise.KindDirect},
		Deliveries: []promise.Delivery{{}},
	}
	delivery := promise.Delivery{ID: all.ID, Destination: "orders", LastError: &text, EndReason: &text}
	bareDelivery := promise.Delivery{ID: all.ID, Destination: "orders", EndReason: &text}
	bare := promise.Promise{ID: all.ID, Name: all.Name, State: all.State, IdempotencyKey: &text, SettledBy: all.SettledBy}
	for _, kind := range []promise.PrincipalKind{"", promise.KindAnonymous, promise.KindDirect, promise.KindAPIKey, promise.KindToken, promise.KindDeadline, promise.KindUnverified, "root"} {
		for _, granted := range subsets(scopes) {
			p := promise.Principal{By: promise.By{Kind: kind}, Scopes: granted}
			want, wantDelivery := bare, bareDelivery
			if kind == promise.KindDirect || kind == promise.KindAPIKey && slices.Contains(granted, promise.ScopeRead) {
				want, wantDelivery = all, delivery
			}
			require.Equal(t, want, p.See(all), "%s %v", kind, granted)
			require.Equal(t, wantDelivery, p.SeeDelivery(delivery), "%s %v", kind, granted)
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
