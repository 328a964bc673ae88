package migrate_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/migrate"
)

// BenchmarkMigrate migrates a legacy database of a million promises and a million keys; a tenth or all of the promises are pending. For
// comparison it copies both tables with CREATE TABLE AS SELECT and builds the same indexes. The metric over-copy is the time of the
// migration divided by the time of the copy.
//
//	go test -run '^$' -bench Migrate -benchtime 1x -timeout 30m ./shared/migrate
func BenchmarkMigrate(b *testing.B) {
	for _, pending := range []int{10, 1} {
		b.Run(map[int]string{10: "pending=tenth", 1: "pending=all"}[pending], func(b *testing.B) { benchmarkMigrate(b, pending) })
	}
}

func benchmarkMigrate(b *testing.B, pendingOneIn int) {
	var migration, tableCopy time.Duration
	for b.Loop() {
		db := dbtest.Bare(b)
		makeLegacy(b, db)
		db.Exec(b, "INSERT INTO tenant VALUES (gen_random_uuid(), 'acme')")
		db.Exec(b, `INSERT INTO workflow_execution SELECT md5(n::TEXT)::UUID, (SELECT id FROM tenant) FROM generate_series(0, 99999) n`)
		db.Exec(b, `INSERT INTO promise
			SELECT w || ':step-' || n, w, 'step-' || n, settled, CASE WHEN settled THEN convert_to('{"status":"paid","n":' || n || '}', 'UTF8') END,
				NULL, NOW(), NOW(), CASE WHEN settled THEN NOW() END, 1 + n / 100000, CASE WHEN settled THEN 20 + n / 100000 END
			FROM (SELECT n, md5((n % 100000)::TEXT)::UUID AS w, n % $1::INT <> 0 AS settled FROM generate_series(0, 999999) n) s`, pendingOneIn)
		db.Exec(b, `INSERT INTO idempotency_key SELECT (SELECT id FROM tenant), 'stripe:' || md5(id), id, NOW() FROM promise`)
		db.Exec(b, "VACUUM ANALYZE")
		db.Exec(b, "CHECKPOINT")

		begun := time.Now()
		for _, sql := range []string{
			"CREATE TABLE copy_promise AS SELECT * FROM promise",
			"ALTER TABLE copy_promise ADD PRIMARY KEY (id)",
			"ALTER TABLE copy_promise ADD UNIQUE (workflow_execution_id, name)",
			"CREATE INDEX ON copy_promise (workflow_execution_id)",
			"CREATE INDEX ON copy_promise (workflow_execution_id, resolved) WHERE resolved = FALSE",
			"CREATE TABLE copy_key AS SELECT * FROM idempotency_key",
			"ALTER TABLE copy_key ADD PRIMARY KEY (tenant_id, key)",
			"CREATE INDEX ON copy_key (promise_id)",
			"CREATE INDEX ON copy_key (expires_at)",
		} {
			db.Exec(b, sql)
		}
		tableCopy += time.Since(begun)
		db.Exec(b, "DROP TABLE copy_promise, copy_key")
		db.Exec(b, "CHECKPOINT")

		begun = time.Now()
		_, err := migrate.Run(b.Context(), config(b, db.URL), migrate.Options{Log: slog.New(slog.NewTextHandler(b.Output(), nil))})
		require.NoError(b, err)
		migration += time.Since(begun)
		require.Equal(b, 1_000_000, one[int](b, db, "SELECT COUNT(*) FROM promise"))
	}
	b.ReportMetric(migration.Seconds()/tableCopy.Seconds(), "over-copy")
	b.ReportMetric(migration.Seconds()/float64(b.N), "s/migration")
	b.ReportMetric(tableCopy.Seconds()/float64(b.N), "s/copy")
	b.ReportMetric(0, "ns/op")
}
