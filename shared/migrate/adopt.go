package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// legacyTable is a table as 00001 makes it, in so far as what follows depends
// on it.
type legacyTable struct {
	name    string
	columns []legacyColumn
	unique  []string // comma-separated columns, in their order in the table
}

type legacyColumn struct{ name, dataType string }

const (
	typeUUID = "uuid"
	typeText = "character varying(255)"
	typeTime = "timestamp with time zone"
	typeAny  = "" // any kind of text
)

var legacy = []legacyTable{
	{"tenant", []legacyColumn{{"id", typeUUID}, {"slug", typeAny}}, []string{"id", "slug"}},
	{"workflow_execution", []legacyColumn{{"id", typeUUID}, {"tenant_id", typeUUID}}, []string{"id"}},
	{
		"promise",
		[]legacyColumn{
			{"id", typeText}, {"workflow_execution_id", typeUUID}, {"name", typeText}, {"resolved", "boolean"}, {"value", "bytea"},
			{"error", "text"}, {"timeout_at", typeTime}, {"created_at", typeTime}, {"resolved_at", typeTime},
			{"created_by_sequence", "integer"}, {"resolved_by_sequence", "integer"},
		},
		[]string{"id"},
	},
	{
		"idempotency_key",
		[]legacyColumn{{"tenant_id", typeUUID}, {"key", typeText}, {"promise_id", typeText}, {"expires_at", typeTime}},
		[]string{"key,tenant_id"},
	},
}

// checkLegacy refuses a database without a history whose tables are not those
// that the migrations start from. The error names every difference.
func checkLegacy(ctx context.Context, conn *pgx.Conn) error {
	var differences []string
	for _, table := range legacy {
		found, err := table.differences(ctx, conn)
		if err != nil {
			return fmt.Errorf("look at the table %s: %w", table.name, err)
		}
		differences = append(differences, found...)
	}
	dependants, err := column(ctx, conn, dependantsSQL)
	if err != nil {
		return fmt.Errorf("look for what depends on the tables: %w", err)
	}
	differences = append(differences, dependants...)
	if len(differences) > 0 {
		return errors.New("refused, with nothing changed: the tables are not those that the migrations start from: " +
			strings.Join(differences, "; "))
	}
	return nil
}

func (t legacyTable) differences(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	rows, err := conn.Query(ctx, columnsSQL, t.name)
	if err != nil {
		return nil, err
	}
	type actual struct {
		Name     string
		DataType string
		Needed   bool // by every INSERT
		IsTable  bool
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByName[actual])
	if err != nil || len(columns) == 0 { // 00001 makes the table
		return nil, err
	}
	if !columns[0].IsTable {
		return []string{t.name + " is not an ordinary table"}, nil
	}
	var found []string
	byName := map[string]actual{}
	for _, c := range columns {
		byName[c.Name] = c
	}
	for _, want := range t.columns {
		got, ok := byName[want.name]
		delete(byName, want.name)
		switch {
		case !ok:
			found = append(found, fmt.Sprintf("%s.%s is missing", t.name, want.name))
		case want.dataType == typeAny && (got.DataType == "text" || strings.HasPrefix(got.DataType, "character varying")):
		case got.DataType != want.dataType:
			if want.dataType == typeAny {
				want.dataType = "text"
			}
			found = append(found, fmt.Sprintf("%s.%s is %s, not %s", t.name, want.name, got.DataType, want.dataType))
		}
	}
	for _, c := range columns {
		if _, extra := byName[c.Name]; extra && c.Needed {
			found = append(found, fmt.Sprintf("%s.%s, of which nothing is known here, takes no NULL and has no default", t.name, c.Name))
		}
	}
	unique, err := column(ctx, conn, uniqueSQL, t.name)
	if err != nil {
		return nil, err
	}
	for _, want := range t.unique {
		if !strings.Contains("\n"+strings.Join(unique, "\n")+"\n", "\n"+want+"\n") {
			found = append(found, fmt.Sprintf("%s(%s) is neither a primary key nor unique", t.name, want))
		}
	}
	return found, nil
}

const columnsSQL = `
SELECT
	a.attname::TEXT AS name,
	format_type(a.atttypid, a.atttypmod) AS data_type,
	a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS needed,
	c.relkind = 'r' AS is_table
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = current_schema()::REGNAMESPACE AND c.relname = $1
ORDER BY a.attnum`

// Indexes that ON CONFLICT can use: whole, and judged at once.
const uniqueSQL = `
SELECT (
	SELECT string_agg(a.attname, ',' ORDER BY a.attname)
	FROM pg_attribute a
	WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
)
FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = current_schema()::REGNAMESPACE AND c.relname = $1
	AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL`

// What would keep the ids' type from being changed.
const dependantsSQL = `
WITH id AS (
	SELECT a.attrelid, a.attnum, a.attrelid::REGCLASS || '.' || a.attname AS name
	FROM pg_class c
	JOIN pg_attribute a ON a.attrelid = c.oid
	WHERE c.relnamespace = current_schema()::REGNAMESPACE
		AND (c.relname, a.attname) IN (('promise', 'id'), ('idempotency_key', 'promise_id'))
)
SELECT DISTINCT 'the view ' || r.ev_class::REGCLASS || ' uses ' || id.name || ': drop it and make it again afterwards'
FROM id
JOIN pg_depend d ON d.refclassid = 'pg_class'::REGCLASS AND d.refobjid = id.attrelid AND d.refobjsubid = id.attnum
JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::REGCLASS AND r.oid = d.objid
UNION ALL
SELECT format('the foreign key %I of %s refers to %s: drop it; the new ids are a function of the old (see migrations/README.md)',
	f.conname, f.conrelid::REGCLASS, id.name)
FROM id
JOIN pg_constraint f ON f.contype = 'f' AND f.confrelid = id.attrelid AND id.attnum = ANY(f.confkey)
WHERE f.conrelid NOT IN (SELECT attrelid FROM id)
ORDER BY 1`

// duplicatesSQL names the rows that (workflow_execution_id, name) cannot tell
// apart. Under the old key that takes an id which disagrees with its columns.
const duplicatesSQL = `
SELECT format('workflow_execution_id %s, name %L: ids %s', workflow_execution_id, name, string_agg(quote_literal(id), ', ' ORDER BY id))
FROM promise
GROUP BY workflow_execution_id, name
HAVING COUNT(*) > 1
ORDER BY 1
LIMIT 20`

func column(ctx context.Context, conn *pgx.Conn, sql string, args ...any) ([]string, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
