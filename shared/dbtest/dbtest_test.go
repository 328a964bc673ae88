package dbtest_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
)

func BenchmarkNew(b *testing.B) {
	dbtest.Bare(b)
	for b.Loop() {
		dbtest.New(b)
	}
}

func BenchmarkBare(b *testing.B) {
	dbtest.Bare(b)
	for b.Loop() {
		dbtest.Bare(b)
	}
}

func TestSchemasAreApart(t *testing.T) {
	t.Parallel()
	a, b := dbtest.New(t), dbtest.New(t)
	id := a.Tenant(t, "acme")
	require.NotEqual(t, uuid.Nil, id)
	require.NotEqual(t, id, b.Tenant(t, "acme"))

	b.Exec(t, "DELETE FROM tenant WHERE slug = $1", "acme")
	t.Run("the pool sees its own schema", func(t *testing.T) {
		var n int
		require.NoError(t, a.Pool.QueryRow(t.Context(), "SELECT COUNT(*) FROM tenant").Scan(&n))
		require.Equal(t, 1, n)
	})
	t.Run("the URL connects to the same schema", func(t *testing.T) {
		conn, err := pgx.Connect(t.Context(), a.URL)
		require.NoError(t, err)
		defer func() { require.NoError(t, conn.Close(t.Context())) }()
		var n int
		require.NoError(t, conn.QueryRow(t.Context(), "SELECT COUNT(*) FROM tenant").Scan(&n))
		require.Equal(t, 1, n)
	})
}

func TestSchemaIsDropped(t *testing.T) {
	t.Parallel()
	var schema string
	t.Run("a test", func(t *testing.T) {
		db := dbtest.New(t)
		require.NoError(t, db.Pool.QueryRow(t.Context(), "SELECT current_schema()").Scan(&schema))
		require.NotEqual(t, "public", schema)
	})
	var there bool
	require.NoError(t, dbtest.Bare(t).Pool.QueryRow(t.Context(),
		"SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema).Scan(&there))
	require.False(t, there)
}

func TestBareIsEmpty(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	var n int
	require.NoError(t, db.Pool.QueryRow(t.Context(),
		"SELECT COUNT(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace").Scan(&n))
	require.Zero(t, n)
}
