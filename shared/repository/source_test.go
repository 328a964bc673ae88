package repository_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// keep is the Secret of a put that brings none.
func keep(uuid.UUID, []promise.SourceSecret, int) ([]byte, bool, error) { return nil, false, nil }

// another is the Secret of a put that brings one.
func another(id uuid.UUID, _ []promise.SourceSecret, version int) ([]byte, bool, error) {
	text, err := sealed(id, version)
	return text, false, err
}

// stripe returns the put of a source. Its id differs for each call.
func stripe() promise.SourcePut {
	return promise.SourcePut{
		ID: uuid.New(), Name: "stripe", Secret: keep, Overlap: time.Hour,
		Definition: &promise.SourceDefinition{
			Verifier: promise.SourceVerifier{Preset: "stripe"}, KeyPrefix: "stripe:", HoldSeconds: 3600, OnRuleError: promise.RuleErrorRefuse,
			Rules: []promise.SourceRule{{When: `body.type == '<&\\x00>'`, Key: "body.id", Then: "resolve"}},
		},
	}
}

func putSource(t testing.TB, r *repository.Repository, p promise.SourcePut) (promise.Source, []promise.SourceSecret) {
	t.Helper()
	s, secrets, _, err := r.PutSource(t.Context(), tenant, p)
	require.NoError(t, err)
	stored, storedSecrets, err := r.GetSource(t.Context(), tenant, p.Name)
	require.NoError(t, err)
	require.Equal(t, stored, s, "a put returns what is stored")
	require.Len(t, secrets, len(storedSecrets))
	for i := range secrets {
		require.Equal(t, storedSecrets[i], secrets[i])
	}
	return s, secrets
}

func sourceVersions(secrets []promise.SourceSecret) (list []int) {
	for _, s := range secrets {
		list = append(list, s.Version)
	}
	return list
}

func TestPutSource(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	_, _, _, err := r.PutSource(ctx, tenant, promise.SourcePut{ID: uuid.New(), Name: "stripe", Enabled: new(false), Secret: keep})
	require.ErrorIs(t, err, promise.ErrNoSource, "a put without a definition creates nothing")
	first := stripe()
	s, secrets, created, err := r.PutSource(ctx, tenant, first)
	require.NoError(t, err)
	require.True(t, created)
	require.True(t, s.Enabled)
	require.Equal(t, 1, s.Version)
	require.Equal(t, first.ID, s.ID)
	require.Empty(t, secrets, "a source may get its secret later")

	t.Run("the same again changes nothing", func(t *testing.T) {
		again, _, created, err := r.PutSource(ctx, tenant, stripe())
		require.NoError(t, err)
		require.False(t, created)
		require.Equal(t, s, again)
		require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM source WHERE updated_at = created_at AND version = 1"))
	})
	t.Run("another definition is a version", func(t *testing.T) {
		other := stripe()
		other.Definition.KeyPrefix = "ä"
		s, _ := putSource(t, r, other)
		require.Equal(t, 2, s.Version)
		require.Equal(t, "ä", s.KeyPrefix)
		require.Equal(t, first.ID, s.ID)
		require.True(t, s.UpdatedAt.After(s.CreatedAt))
		require.Equal(t, `body.type == '<&\\x00>'`, s.Rules[0].When)
	})
	t.Run("without a definition it stays", func(t *testing.T) {
		paused, _ := putSource(t, r, promise.SourcePut{Name: "stripe", Enabled: new(false), Secret: keep})
		require.False(t, paused.Enabled)
		require.Equal(t, 3, paused.Version)
		require.Equal(t, "ä", paused.KeyPrefix)
		again, _ := putSource(t, r, promise.SourcePut{Name: "stripe", Enabled: new(false), Secret: keep})
		require.Equal(t, paused, again)
	})
	t.Run("without enabled it stays paused", func(t *testing.T) {
		s, _ := putSource(t, r, stripe())
		require.False(t, s.Enabled)
		require.Equal(t, 4, s.Version)
	})
	t.Run("secrets", func(t *testing.T) {
		p := stripe()
		p.Secret = another
		s, secrets := putSource(t, r, p)
		require.Equal(t, 5, s.Version)
		require.Equal(t, []int{1}, sourceVersions(secrets))
		require.Nil(t, secrets[0].RetireAt)
		p.Secret = func(id uuid.UUID, active []promise.SourceSecret, version int) ([]byte, bool, error) {
			require.Equal(t, s.ID, id)
			require.Equal(t, []int{1}, sourceVersions(active))
			return another(id, active, version)
		}
		s, secrets = putSource(t, r, p)
		require.Equal(t, 6, s.Version)
		require.Equal(t, []int{2, 1}, sourceVersions(secrets))
		require.NotNil(t, secrets[1].RetireAt)
		p.Secret = another
		_, _, _, err := r.PutSource(ctx, tenant, p)
		require.Equal(t, "secret", requireCode(t, promise.CodeConflict, err).Field)
		p.Secret = func(uuid.UUID, []promise.SourceSecret, int) ([]byte, bool, error) {
			return nil, false, errors.New("boom")
		}
		_, _, _, err = r.PutSource(ctx, tenant, p)
		require.ErrorContains(t, err, "boom")
		again, _ := putSource(t, r, stripe())
		require.Equal(t, s, again, "a failed put changes nothing")
	})
	t.Run("the limit", func(t *testing.T) {
		db.Exec(t, `INSERT INTO source (id, tenant_id, name, definition)
			SELECT gen_random_uuid(), id, 's' || n, '{}' FROM tenant CROSS JOIN generate_series(1, 98) n`)
		last, more := stripe(), stripe()
		last.Name, more.Name = "hundredth", "more"
		putSource(t, r, last)
		_, _, _, err := r.PutSource(ctx, tenant, more)
		requireCode(t, promise.CodeQuotaExceeded, err)
		putSource(t, r, stripe())
	})
}

func TestSourcesOfOtherTenants(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	putSource(t, r, stripe())
	_, err := r.SuspendTenant(t.Context(), tenant, true)
	require.NoError(t, err)
	for slug, want := range map[string]error{"other": promise.ErrNoSource, "nobody": promise.ErrNotFound, tenant: promise.ErrNotFound} {
		t.Run(slug, func(t *testing.T) {
			_, _, err := r.GetSource(t.Context(), slug, "stripe")
			require.ErrorIs(t, err, want)
			require.ErrorIs(t, errOf(r.DeleteSource(t.Context(), slug, "stripe")), want)
			_, _, err = r.RotateSourceSecret(t.Context(), slug, "stripe", promise.Rotation{}, sealed)
			require.ErrorIs(t, err, want)
			require.NoError(t, r.TouchSource(t.Context(), slug, "stripe", promise.SourceTouch{}))
			list, err := r.ListSources(t.Context(), slug)
			require.Empty(t, list)
			if slug != "other" {
				require.ErrorIs(t, err, want)
				_, _, _, err = r.PutSource(t.Context(), slug, stripe())
				require.ErrorIs(t, err, want)
			}
		})
	}
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM source WHERE version = 1 AND last_received_at IS NULL"))
}

func TestRotateSourceSecret(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	putSource(t, r, stripe())
	rotate := func(rotation promise.Rotation) (promise.Source, []promise.SourceSecret, error) {
		return r.RotateSourceSecret(ctx, tenant, "stripe", rotation, sealed)
	}
	_, _, err := rotate(promise.Rotation{Ends: 1})
	require.Equal(t, "replaceVersion", requireCode(t, promise.CodeConflict, err).Field, "a source without a secret")
	for i, c := range []struct {
		name     string
		rotation promise.Rotation
		want     []int
	}{
		{"the first secret", promise.Rotation{Overlap: time.Hour}, []int{1}},
		{"a second", promise.Rotation{Overlap: time.Hour}, []int{2, 1}},
		{"in place of the newest", promise.Rotation{Overlap: time.Hour, Ends: 2}, []int{3, 1}},
		{"in place of the older", promise.Rotation{Overlap: time.Hour, Ends: 1}, []int{4, 3}},
		{"without an overlap", promise.Rotation{Ends: 3}, []int{5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, secrets, err := rotate(c.rotation)
			require.NoError(t, err)
			require.Equal(t, c.want, sourceVersions(secrets))
			require.Equal(t, i+2, s.Version)
			stored, storedSecrets, err := r.GetSource(ctx, tenant, "stripe")
			require.NoError(t, err)
			require.Equal(t, stored, s)
			require.Equal(t, storedSecrets, secrets)
		})
	}
	_, _, err = rotate(promise.Rotation{Overlap: time.Hour})
	require.NoError(t, err)
	_, _, err = rotate(promise.Rotation{Overlap: time.Hour})
	require.Equal(t, "replaceVersion", requireCode(t, promise.CodeConflict, err).Field, "a third secret")
	require.Equal(t, 2, count(t, db, "SELECT COUNT(*) FROM source_secret"), "retired secrets are deleted")
}

// Each rotation at the same moment adds a version of its own, or is a conflict. A put that brings a definition is not lost.
func TestSourceRaces(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	putSource(t, r, stripe())
	versions := make([]int, callers)
	errs := make([]error, callers)
	atOnce(t, db.URL, func(r *repository.Repository, caller int) {
		p := stripe()
		if caller%2 == 0 {
			p.Definition.KeyPrefix = fmt.Sprint(caller)
		} else {
			p.Name = fmt.Sprint("s", caller%8)
		}
		var s promise.Source
		s, _, _, errs[caller] = r.PutSource(t.Context(), tenant, p)
		versions[caller] = s.Version
	})
	seen := map[int]bool{}
	for caller, err := range errs {
		if err != nil { // a call that lost ten races
			require.Equal(t, promise.CodeUnavailable, promise.AsError(err).Code)
			continue
		}
		if caller%2 == 0 {
			require.False(t, seen[versions[caller]], "version %d is of two calls", versions[caller])
			seen[versions[caller]] = true
		}
	}
	require.Equal(t, 5, count(t, db, "SELECT COUNT(*) FROM source"))
	require.Equal(t, len(seen)+1, count(t, db, "SELECT version FROM source WHERE name = 'stripe'"))
}

func TestDeleteSource(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := stripe()
	p.Secret = another
	first, _ := putSource(t, r, p)
	id, err := r.DeleteSource(t.Context(), tenant, "stripe")
	require.NoError(t, err)
	require.Equal(t, first.ID, id)
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM source_secret"))
	_, err = r.DeleteSource(t.Context(), tenant, "stripe")
	require.ErrorIs(t, err, promise.ErrNoSource)
	list, err := r.ListSources(t.Context(), tenant)
	require.NoError(t, err)
	require.Empty(t, list)
	second, _ := putSource(t, r, stripe())
	require.NotEqual(t, first.ID, second.ID, "the name is free")
	other := stripe()
	other.Name = "a"
	putSource(t, r, other)
	list, err = r.ListSources(t.Context(), tenant)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "stripe"}, []string{list[0].Name, list[1].Name})
}

func TestTouchSource(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	created, _ := putSource(t, r, stripe())
	id := created.ID
	touch := func(refusal string) promise.Source {
		require.NoError(t, r.TouchSource(t.Context(), tenant, "stripe", promise.SourceTouch{ID: id, Refusal: refusal}))
		s, _, err := r.GetSource(t.Context(), tenant, "stripe")
		require.NoError(t, err)
		return s
	}
	refused := touch(strings.Repeat("ä", 201))
	require.Equal(t, strings.Repeat("ä", 200), refused.LastRefusal)
	require.Equal(t, refused.LastRefusedAt, refused.LastReceivedAt)
	require.Nil(t, refused.LastVerifiedAt)
	require.Equal(t, refused, touch("later"), "a second refusal within a minute is not stored")
	verified := touch("")
	require.Equal(t, verified.LastVerifiedAt, verified.LastReceivedAt, "another kind is")
	require.Equal(t, refused.LastRefusedAt, verified.LastRefusedAt)
	require.Equal(t, verified, touch(""))
	require.Equal(t, 1, verified.Version, "a touch is no change of the source")
	db.Exec(t, "UPDATE source SET last_verified_at = NOW() - INTERVAL '61 seconds', last_refused_at = NOW() - INTERVAL '61 seconds'")
	require.True(t, touch("").LastVerifiedAt.After(*verified.LastVerifiedAt))
	require.Equal(t, "no", touch("no").LastRefusal)

	for _, c := range []struct {
		name, set string
		now       bool // the next refusal is the first
	}{
		{"the first", "refused_since = NULL, last_verified_at = NULL, updated_at = NOW() - INTERVAL '1 day'", true},
		{"after another", "refused_since = NOW() - INTERVAL '20 minutes'", false},
		{"after a verification", "last_verified_at = NOW() - INTERVAL '10 minutes'", true},
		{"after another since the verification", "refused_since = NOW() - INTERVAL '7 minutes'", false},
		{"after another that may precede the verification", "refused_since = last_verified_at + INTERVAL '2 minutes'", true},
		{"after a change", "refused_since = NOW() - INTERVAL '7 minutes', updated_at = NOW() - INTERVAL '6 minutes'", true},
	} {
		db.Exec(t, "UPDATE source SET last_refused_at = NOW() - INTERVAL '61 seconds', "+c.set)
		touch("no")
		require.Equal(t, c.now, count(t, db, "SELECT COUNT(*) FROM source WHERE refused_since = last_refused_at") == 1, c.name)
	}
	db.Exec(t, "UPDATE source SET last_verified_at = NULL")
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM source WHERE refused_since IS NOT NULL"))
	touch("")
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM source WHERE refused_since < last_verified_at"), "a verification leaves it")

	db.Exec(t, "UPDATE source SET last_refused_at = NULL")
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT FROM source FOR UPDATE")
	require.NoError(t, err)
	require.Nil(t, touch("no").LastRefusedAt, "a touch does not wait for a lock")
	require.NoError(t, tx.Rollback(t.Context()))

	db.Exec(t, "UPDATE source SET last_verified_at = NULL")
	id = uuid.New()
	require.Nil(t, touch("").LastVerifiedAt, "another source has verified it")
	require.NotNil(t, touch("no").LastRefusedAt)
}

// requireSources sends every statement on sources. It leaves no source.
func requireSources(t *testing.T, r *repository.Repository, db *dbtest.DB) {
	t.Helper()
	p := stripe()
	p.Secret = another
	putSource(t, r, p)
	p.Definition.KeyPrefix, p.Enabled = "it's \\x00 ä", new(true)
	s, secrets := putSource(t, r, p)
	require.Equal(t, "it's \\x00 ä", s.KeyPrefix)
	require.Equal(t, []int{2, 1}, sourceVersions(secrets))
	_, _, err := r.RotateSourceSecret(t.Context(), tenant, "stripe", promise.Rotation{Overlap: time.Hour, Ends: 1}, sealed)
	require.NoError(t, err)
	require.NoError(t, r.TouchSource(t.Context(), tenant, "stripe", promise.SourceTouch{ID: s.ID}))
	require.NoError(t, r.TouchSource(t.Context(), tenant, "stripe", promise.SourceTouch{Refusal: "no"}))
	list, err := r.ListSources(t.Context(), tenant)
	require.NoError(t, err)
	require.Equal(t, "no", list[0].LastRefusal)
	require.NotNil(t, list[0].LastVerifiedAt)
	_, err = r.DeleteSource(t.Context(), tenant, "stripe")
	require.NoError(t, err)
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM source"))
}

// addSources adds 100 sources to each tenant, and many receipts, some of them with a body.
func addSources(t *testing.T, db *dbtest.DB, sources int) {
	t.Helper()
	db.Exec(t, `INSERT INTO source (id, tenant_id, name, definition, held_full, last_verified_at)
		SELECT gen_random_uuid(), id, 's' || n, '{}', random() < 0.01, NOW() - random() * INTERVAL '50 days' FROM tenant CROSS JOIN generate_series(1, $1) n`, sources)
	db.Exec(t, `INSERT INTO source_secret (source_id, version, sealed, retire_at)
		SELECT id, n, '\x01'::BYTEA || sha256(id::TEXT::BYTEA) || sha256(''), CASE WHEN n < 2 AND random() < 0.01 THEN NOW() END FROM source CROSS JOIN generate_series(1, 2) n`)
	db.Exec(t, `INSERT INTO receipt (id, tenant_id, source_id, source_name, event, item, key, outcome, promise_id, received_at, updated_at, expires_at)
		SELECT gen_random_uuid(), tenant_id, id, name, 'id:' || n, 0, name || n,
			(ARRAY['settled', 'duplicate', 'conflict', 'timed_out', 'cancelled', 'held', 'expired', 'not_found', 'ignored', 'rule_failed'])[1 + n % 10],
			gen_random_uuid(), NOW() - random() * INTERVAL '8 days', NOW(), NOW() + random() * INTERVAL '8 days'
		FROM source CROSS JOIN generate_series(1, 10) n`)
	db.Exec(t, `INSERT INTO receipt_body (id, receipt_id, sealed, expires_at)
		SELECT id, id, '\x01'::BYTEA || sha256(id::TEXT::BYTEA) || sha256(''), expires_at FROM receipt WHERE random() < 0.2`)
}
