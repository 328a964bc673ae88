package migrate_test

import (
	"crypto/sha256"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/migrations"
	"github.com/flovyn/promises/shared/dbtest"
)

// config parses the URL of a database.
func config(t testing.TB, databaseURL string) *pgx.ConnConfig {
	t.Helper()
	c, err := pgx.ParseConfig(databaseURL)
	require.NoError(t, err)
	return c
}

// one returns the only row of a query with one column.
func one[T any](t testing.TB, db *dbtest.DB, sql string, args ...any) T {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), sql, args...)
	require.NoError(t, err)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	require.NoError(t, err)
	return v
}

// fileNames lists the files of migrations/ in order.
func fileNames(t *testing.T) []string {
	t.Helper()
	entries, err := migrations.FS.ReadDir(".")
	require.NoError(t, err)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	require.NotEmpty(t, names)
	return names
}

// filesBefore returns the files of migrations/ whose names sort before first.
func filesBefore(t *testing.T, first string) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	entries, err := fs.ReadDir(migrations.FS, ".")
	require.NoError(t, err)
	for _, e := range entries {
		if e.Name() < first {
			text, err := fs.ReadFile(migrations.FS, e.Name())
			require.NoError(t, err)
			files[e.Name()] = &fstest.MapFile{Data: text}
		}
	}
	return files
}

// legacyDB returns a database with the legacy tables and the legacy data set.
func legacyDB(t testing.TB) *dbtest.DB {
	t.Helper()
	db := dbtest.Bare(t)
	makeLegacy(t, db)
	fillLegacy(t, db)
	return db
}

// makeLegacy creates the legacy tables as an operator of the first release did.
func makeLegacy(t testing.TB, db *dbtest.DB) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), legacyDDL, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
}

const legacyDDL = `
CREATE TABLE tenant (id UUID PRIMARY KEY, slug TEXT NOT NULL UNIQUE);
CREATE TABLE workflow_execution (id UUID PRIMARY KEY, tenant_id UUID NOT NULL REFERENCES tenant (id));
CREATE TABLE promise (
	id VARCHAR(255) PRIMARY KEY,
	workflow_execution_id UUID NOT NULL REFERENCES workflow_execution (id) ON DELETE CASCADE,
	name VARCHAR(255) NOT NULL,
	resolved BOOLEAN NOT NULL DEFAULT FALSE,
	value BYTEA,
	error TEXT,
	timeout_at TIMESTAMPTZ,
	created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
	resolved_at TIMESTAMPTZ,
	created_by_sequence INT NOT NULL,
	resolved_by_sequence INT
);
CREATE INDEX idx_promise_workflow ON promise (workflow_execution_id);
CREATE INDEX idx_promise_pending ON promise (workflow_execution_id, resolved) WHERE resolved = FALSE;
CREATE TABLE idempotency_key (
	tenant_id UUID NOT NULL REFERENCES tenant (id),
	key VARCHAR(255) NOT NULL,
	promise_id VARCHAR(255), -- a key could be registered before its promise was created
	expires_at TIMESTAMPTZ NOT NULL,
	PRIMARY KEY (tenant_id, key)
);`

// newID returns the UUID of a legacy promise by the rule of migrations/README.md.
func newID(oldID string) string {
	h := sha256.Sum256([]byte(oldID))
	h[6], h[8] = 0x80, 0x80
	return uuid.UUID(h[:16]).String()
}

// The tenant acme and the workflows of the legacy data set: w1 and w2 are acme's, w3 is another tenant's.
var (
	acme       = uuid.UUID{0xac}
	w1, w2, w3 = uuid.UUID{1}, uuid.UUID{2}, uuid.UUID{3}
)

const insertLegacy = `
INSERT INTO tenant VALUES ('ac000000-0000-0000-0000-000000000000', 'acme'), ('07000000-0000-0000-0000-000000000000', 'other');
INSERT INTO workflow_execution VALUES
	('01000000-0000-0000-0000-000000000000', 'ac000000-0000-0000-0000-000000000000'),
	('02000000-0000-0000-0000-000000000000', 'ac000000-0000-0000-0000-000000000000'),
	('03000000-0000-0000-0000-000000000000', '07000000-0000-0000-0000-000000000000'),
	('04000000-0000-0000-0000-000000000000', '07000000-0000-0000-0000-000000000000');
INSERT INTO promise SELECT w || ':' || name, w::UUID, name, resolved, value, error, timeout_at, created_at, resolved_at, c, r FROM (VALUES
	('01000000-0000-0000-0000-000000000000', 'pay', FALSE, NULL::BYTEA, NULL, '2099-01-01Z'::TIMESTAMPTZ, '2024-01-01 00:00:00.123456Z'::TIMESTAMPTZ, NULL::TIMESTAMPTZ, 1, NULL::INT),
	('01000000-0000-0000-0000-000000000000', 'a:b:c', FALSE, NULL, NULL, NULL, '2024-01-02Z', NULL, 2, NULL),
	('01000000-0000-0000-0000-000000000000', ':', FALSE, NULL, NULL, NULL, '2024-01-02Z', NULL, 3, NULL),
	('01000000-0000-0000-0000-000000000000', '', FALSE, NULL, NULL, NULL, '2024-01-02Z', NULL, 4, NULL),
	('01000000-0000-0000-0000-000000000000', 'größe 50% /?', TRUE, '\x7b2261223a205b31205d7d', NULL, NULL, '2024-01-03Z', '2024-02-01Z', 5, 17),
	('01000000-0000-0000-0000-000000000000', 'not even JSON', TRUE, '\x00ff', NULL, NULL, '2024-01-03Z', '2024-02-01Z', 6, 18),
	('01000000-0000-0000-0000-000000000000', 'nothing', TRUE, NULL, NULL, NULL, '2024-01-03Z', NULL, 7, NULL),
	('01000000-0000-0000-0000-000000000000', 'failed', TRUE, NULL, 'no funds', NULL, '2024-01-03Z', '2024-02-01Z', 8, 19),
	('01000000-0000-0000-0000-000000000000', 'failed without words', TRUE, NULL, '', NULL, '2024-01-03Z', '2024-02-01Z', 9, 20),
	('01000000-0000-0000-0000-000000000000', 'overdue', FALSE, NULL, NULL, '2024-03-01Z', '2024-01-03Z', NULL, 10, NULL),
	('02000000-0000-0000-0000-000000000000', 'pay', FALSE, NULL, NULL, NULL, '2024-01-03Z', NULL, 1, NULL),
	('03000000-0000-0000-0000-000000000000', 'pay', FALSE, NULL, NULL, NULL, '2024-01-03Z', NULL, 1, NULL)
) AS v (w, name, resolved, value, error, timeout_at, created_at, resolved_at, c, r);
INSERT INTO promise (id, workflow_execution_id, name, resolved, created_by_sequence) VALUES
	('02000000-0000-0000-0000-000000000000:of another', '01000000-0000-0000-0000-000000000000', 'of another', FALSE, 11),
	('no-id-at-all', '01000000-0000-0000-0000-000000000000', 'odd', FALSE, 12),
	('odd and settled', '01000000-0000-0000-0000-000000000000', 'odd too', TRUE, 13),
	-- the id of the first promise equals the composite id of the second
	('02000000-0000-0000-0000-000000000000:swap', '01000000-0000-0000-0000-000000000000', 'swap', FALSE, 14),
	('swapped', '02000000-0000-0000-0000-000000000000', 'swap', FALSE, 2),
	('long', '02000000-0000-0000-0000-000000000000', repeat('n', 255), FALSE, 3),
	('02000000-0000-0000-0000-000000000000:' || repeat('m', 218), '02000000-0000-0000-0000-000000000000', repeat('m', 218), FALSE, 4);
INSERT INTO idempotency_key VALUES
	('ac000000-0000-0000-0000-000000000000', 'live', '01000000-0000-0000-0000-000000000000:pay', '2099-01-01Z'),
	('ac000000-0000-0000-0000-000000000000', 'second of the same', '01000000-0000-0000-0000-000000000000:pay', '2099-01-01Z'),
	('ac000000-0000-0000-0000-000000000000', 'expired, pending', '01000000-0000-0000-0000-000000000000:a:b:c', '2024-01-03Z'),
	('ac000000-0000-0000-0000-000000000000', 'expired, settled', '01000000-0000-0000-0000-000000000000:failed', '2024-01-03Z'),
	('ac000000-0000-0000-0000-000000000000', 'of the odd', 'no-id-at-all', '2099-01-01Z'),
	('ac000000-0000-0000-0000-000000000000', 'of a promise that is gone', '01000000-0000-0000-0000-000000000000:gone', '2099-01-01Z'),
	('ac000000-0000-0000-0000-000000000000', 'without a promise', NULL, '2099-01-01Z'),
	('07000000-0000-0000-0000-000000000000', 'live', '03000000-0000-0000-0000-000000000000:pay', '2099-01-01Z'),
	('ac000000-0000-0000-0000-000000000000', '02000000-0000-0000-0000-000000000000:swap', '01000000-0000-0000-0000-000000000000:failed', '2024-01-03Z'),
	('ac000000-0000-0000-0000-000000000000', 'zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz:looks like one', '01000000-0000-0000-0000-000000000000:failed', '2024-01-03Z'),
	-- a caller's own key, whose text is the legacy id of another promise
	('ac000000-0000-0000-0000-000000000000', '02000000-0000-0000-0000-000000000000:pay', '01000000-0000-0000-0000-000000000000::', '2099-01-01Z');`

// fillLegacy inserts the legacy data set.
func fillLegacy(t testing.TB, db *dbtest.DB) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), insertLegacy, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
}

// lines returns the rows of a query with one column.
func lines(t testing.TB, db *dbtest.DB, sql string) []string {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), sql)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return all
}
