package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A legacyTable describes the properties of a table of 00001 that the later files
// depend on.
type legacyTable struct {
	name    string
	columns []legacyColumn
	unique  []string // comma-separated columns, by name
}

type legacyColumn struct {
	name, dataType string
	null           nullability
	mayDefault     bool // 00002 sets the column's default, or the service does not depend on it
}

type nullability int

const (
	notNull nullability = iota
	nullable
	eitherNull
)

const (
	typeUUID = "uuid"
	typeText = "character varying(255)"
	typeTime = "timestamp with time zone"
	typeAny  = "text" // or character varying of any length
)

var legacy = []legacyTable{
	{"tenant", []legacyColumn{{"id", typeUUID, notNull, true}, {"slug", typeAny, notNull, false}}, []string{"id", "slug"}},
	{"workflow_execution", []legacyColumn{{"id", typeUUID, notNull, true}, {"tenant_id", typeUUID, notNull, false}}, []string{"id"}},
	{
		"promise",
		[]legacyColumn{
			{"id", typeText, notNull, true},
			{"workflow_execution_id", typeUUID, notNull, false},
			{"name", typeText, notNull, false},
			{"resolved", "boolean", notNull, true},
			{"value", "bytea", nullable, false},
			{"error", "text", nullable, false},
			{"timeout_at", typeTime, nullable, false},
			{"created_at", typeTime, notNull, true},
			{"resolved_at", typeTime, nullable, false},
			{"created_by_sequence", "integer", notNull, false},
			{"resolved_by_sequence", "integer", nullable, false},
		},
		[]string{"id"},
	},
	{
		"idempotency_key",
		[]legacyColumn{
			{"tenant_id", typeUUID, notNull, false},
			{"key", typeText, notNull, false},
			{"promise_id", typeText, eitherNull, false},
			{"expires_at", typeTime, notNull, false},
		},
		[]string{"key,tenant_id"},
	},
}

// checkLegacy compares the tables of a database older than 00002 with the legacy
// ones. It also checks that no other object has a name that the files use. The
// error names every difference.
func checkLegacy(ctx context.Context, conn *pgx.Conn) error {
	var differences, present []string
	for _, table := range legacy {
		exists, found, err := table.differences(ctx, conn)
		if err != nil {
			return fmt.Errorf("read the table %s: %w", table.name, err)
		}
		if exists {
			present = append(present, table.name)
		}
		differences = append(differences, found...)
	}
	if slices.Contains(present, "promise") { // 00001 creates missing tables, but an empty tenant or workflow_execution would hide every promise
		for _, needed := range []string{"tenant", "workflow_execution"} {
			if !slices.Contains(present, needed) {
				differences = append(differences, needed+" is missing")
			}
		}
	}
	for _, sql := range []string{elsewhereSQL, dependantsSQL, takenSQL} {
		found, err := column(ctx, conn, sql)
		if err != nil {
			return fmt.Errorf("read what depends on the tables: %w", err)
		}
		differences = append(differences, found...)
	}
	if len(differences) > 0 {
		return errors.New("refused, with nothing changed: the tables differ from those that the migrations start from: " +
			strings.Join(differences, "; "))
	}
	return nil
}

// An actualColumn is a row of columnsSQL.
type actualColumn struct {
	Name       string
	DataType   string
	NotNull    bool
	HasDefault bool
	Computed   bool
	IsTable    bool
	Hidden     bool
}

// differences reports whether the table exists, and lists how it differs from t.
func (t legacyTable) differences(ctx context.Context, conn *pgx.Conn) (exists bool, found []string, err error) {
	rows, err := conn.Query(ctx, columnsSQL, t.name)
	if err != nil {
		return false, nil, err
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByName[actualColumn])
	if err != nil || len(columns) == 0 {
		return false, nil, err
	}
	if !columns[0].IsTable {
		return true, []string{t.name + " is not an ordinary table"}, nil
	}
	if columns[0].Hidden {
		found = append(found, t.name+" has row-level security, which hides rows from this user")
	}
	found = append(found, t.columnDifferences(columns)...)
	unique, err := column(ctx, conn, uniqueSQL, t.name)
	if err != nil {
		return true, nil, err
	}
	for _, want := range t.unique {
		if !slices.Contains(unique, want) {
			found = append(found, fmt.Sprintf("%s(%s) is neither a primary key nor unique", t.name, want))
		}
	}
	return true, found, nil
}

// columnDifferences lists how the columns differ from those of t.
func (t legacyTable) columnDifferences(columns []actualColumn) (found []string) {
	byName := map[string]actualColumn{}
	for _, c := range columns {
		byName[c.Name] = c
	}
	for _, want := range t.columns {
		got, ok := byName[want.name]
		delete(byName, want.name)
		name := t.name + "." + want.name
		isText := want.dataType == typeAny && strings.HasPrefix(got.DataType, "character varying")
		switch {
		case !ok:
			found = append(found, name+" is missing")
			continue
		case got.DataType != want.dataType && !isText:
			found = append(found, fmt.Sprintf("%s is %s, not %s", name, got.DataType, want.dataType))
		}
		switch {
		case want.null == notNull && !got.NotNull:
			found = append(found, name+" may be NULL")
		case want.null == nullable && got.NotNull:
			found = append(found, name+" may not be NULL")
		}
		switch {
		case got.Computed:
			found = append(found, name+" is generated")
		case got.HasDefault && !want.mayDefault:
			found = append(found, name+" has a default")
		}
	}
	for _, c := range columns {
		if _, extra := byName[c.Name]; extra && c.NotNull && !c.HasDefault && !c.Computed {
			found = append(found, fmt.Sprintf("%s.%s is an unknown column that takes no NULL and has no default: inserts would fail", t.name, c.Name))
		}
	}
	return found
}

const columnsSQL = `
SELECT
	a.attname::TEXT AS name,
	format_type(a.atttypid, a.atttypmod) AS data_type,
	a.attnotnull AS not_null,
	a.atthasdef AND a.attgenerated = '' AS has_default,
	a.attgenerated <> '' OR a.attidentity <> '' AS computed,
	c.relkind = 'r' AND NOT c.relispartition AND NOT EXISTS (
		SELECT FROM pg_inherits WHERE inhrelid = c.oid OR inhparent = c.oid
	) AS is_table,
	row_security_active(c.oid) AS hidden
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = quote_ident(current_schema())::REGNAMESPACE AND c.relname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY a.attnum`

// uniqueSQL finds the unique indexes that ON CONFLICT can use: without a predicate
// or expression, valid, and not deferrable.
const uniqueSQL = `
SELECT (
	SELECT string_agg(a.attname, ',' ORDER BY a.attname)
	FROM pg_attribute a
	WHERE a.attrelid = i.indrelid AND a.attnum = ANY((i.indkey::INT2[])[0:i.indnkeyatts - 1])
)
FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = quote_ident(current_schema())::REGNAMESPACE AND c.relname = $1
	AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL`

// elsewhereSQL finds tables in a later schema of the search_path. New empty tables
// in the first schema would hide them.
const elsewhereSQL = `
SELECT format('%s is in the schema %s, not in the first of the search_path', t, c.relnamespace::REGNAMESPACE)
FROM unnest(ARRAY['tenant', 'workflow_execution', 'promise', 'idempotency_key']) AS t
JOIN pg_class c ON c.oid = to_regclass(t)
WHERE c.relnamespace <> quote_ident(current_schema())::REGNAMESPACE`

// dependantsSQL finds objects that prevent a change of the ids' type, or that would
// still treat an id as text afterwards.
const dependantsSQL = `
WITH id AS (
	SELECT a.attrelid, a.attnum, c.relname || '.' || a.attname AS name
	FROM pg_class c
	JOIN pg_attribute a ON a.attrelid = c.oid
	WHERE c.relnamespace = quote_ident(current_schema())::REGNAMESPACE
		AND (c.relname, a.attname) IN (('promise', 'id'), ('idempotency_key', 'promise_id'))
)
SELECT DISTINCT format('the view %s uses %s: drop it and make it again afterwards', r.ev_class::REGCLASS, id.name)
FROM id
JOIN pg_depend d ON d.refclassid = 'pg_class'::REGCLASS AND d.refobjid = id.attrelid AND d.refobjsubid = id.attnum
JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::REGCLASS AND r.oid = d.objid
UNION ALL
SELECT DISTINCT format('%s uses %s: drop it and make it again afterwards', pg_describe_object(d.classid, d.objid, 0), id.name)
FROM id
JOIN pg_depend d ON d.refclassid = 'pg_class'::REGCLASS AND d.refobjid = id.attrelid AND d.refobjsubid = id.attnum
WHERE d.classid IN ('pg_trigger'::REGCLASS, 'pg_policy'::REGCLASS)
	OR d.classid = 'pg_attrdef'::REGCLASS AND NOT EXISTS (
		SELECT FROM pg_attrdef f WHERE f.oid = d.objid AND f.adrelid = id.attrelid AND f.adnum = id.attnum
	)
UNION ALL
SELECT format('the constraint %I of %s takes %s for text: drop it', k.conname, k.conrelid::REGCLASS, id.name)
FROM id
JOIN pg_constraint k ON k.contype = 'c' AND k.conrelid = id.attrelid AND id.attnum = ANY(k.conkey)
UNION ALL
SELECT format('the index %s on %s is for text alone: drop it', i.indexrelid::REGCLASS, id.name)
FROM id
JOIN pg_index i ON i.indrelid = id.attrelid AND id.attnum = ANY(i.indkey)
JOIN pg_opclass o ON o.oid = ANY(i.indclass) AND NOT o.opcdefault
UNION ALL
SELECT format('the foreign key %I of %s refers to %s: drop it; the new ids are a function of the old (see migrations/README.md)',
	f.conname, f.conrelid::REGCLASS, id.name)
FROM id
JOIN pg_constraint f ON f.contype = 'f' AND f.confrelid = id.attrelid AND id.attnum = ANY(f.confkey)
WHERE f.conrelid NOT IN (SELECT attrelid FROM id)
UNION ALL
SELECT format('the foreign key %I of %s refers to idempotency_key: drop it', f.conname, f.conrelid::REGCLASS)
FROM id
JOIN pg_constraint f ON f.contype = 'f' AND f.confrelid = id.attrelid AND f.conrelid <> id.attrelid
WHERE id.name = 'idempotency_key.promise_id'
ORDER BY 1`

// takenSQL finds objects that already have a name which the migrations give to a
// new object. checkLegacy runs it before the first file: a conflict after 00002
// would leave a schema that is neither legacy nor current.
const takenSQL = `
WITH here AS (SELECT quote_ident(current_schema())::REGNAMESPACE AS oid)
SELECT format('the relation %I is there already', c.relname)
FROM pg_class c JOIN here ON c.relnamespace = here.oid
WHERE c.relname IN ('workflow_event', 'workflow_event_pkey', 'idx_idempotency_key_promise', 'idx_idempotency_key_expires', 'idx_idempotency_key_check',
	'idx_promise_due', 'idx_promise_tenant', 'idx_promise_settled', 'idx_promise_due_by_tenant', 'idx_promise_list', 'workflow_event_row', 'workflow_event_row_pkey', 'api_key', 'api_key_pkey', 'api_key_hash_key', 'idx_api_key_tenant',
	'promise_settlement', 'promise_creation', 'promise_created', 'settle_result',
	'tenant_usage', 'tenant_usage_pkey', 'deleted_tenant', 'deleted_tenant_pkey', 'idx_workflow_execution_tenant', 'idx_idempotency_key_held',
	'tenant_wait', 'tenant_wait_pkey', 'idx_tenant_wait_expires', 'signing_key', 'signing_key_pkey',
	'destination', 'destination_pkey', 'idx_destination_name', 'idx_destination_tenant', 'destination_secret', 'destination_secret_pkey',
	'idx_destination_secret_key', 'idx_destination_secret_retire', 'idx_destination_deleted', 'idx_delivery_lease_expires', 'delivery', 'delivery_pkey', 'delivery_promise_id_target_key', 'idx_delivery_due',
	'idx_delivery_due_by_destination', 'idx_delivery_destination', 'delivery_lease', 'delivery_lease_pkey',
	'source', 'source_pkey', 'source_tenant_id_name_key', 'idx_source_verified', 'source_secret', 'source_secret_pkey', 'idx_source_secret_key', 'idx_source_secret_retire',
	'receipt', 'receipt_pkey', 'receipt_tenant_id_source_name_event_item_key', 'idx_receipt_list', 'idx_receipt_source', 'idx_receipt_outcome', 'idx_receipt_key',
	'idx_receipt_promise', 'idx_receipt_held', 'idx_receipt_expires', 'receipt_body', 'receipt_body_pkey', 'receipt_body_receipt_id_key', 'idx_receipt_body_key',
	'idx_receipt_body_expires', 'early_result', 'receipt_result')
UNION ALL
SELECT format('%I.%I is there already', c.relname, a.attname)
FROM pg_class c JOIN here ON c.relnamespace = here.oid
JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
WHERE (c.relname, a.attname) IN (('promise', 'outcome'), ('promise', 'metadata'), ('promise', 'idempotency_key'),
	('promise', 'tenant_id'), ('promise', 'timeout_outcome'), ('promise', 'timeout_value'), ('promise', 'timeout_error'),
	('promise', 'settled_by_kind'), ('promise', 'settled_by_id'), ('promise', 'comment'), ('promise', 'tokens_revoked_at'), ('promise', 'erased_at'),
	('promise', 'notifies'), ('tenant', 'default_destination_id'),
	('idempotency_key', 'held_outcome'), ('idempotency_key', 'held_value'), ('idempotency_key', 'held_error'),
	('idempotency_key', 'held_by_kind'), ('idempotency_key', 'held_by_id'), ('idempotency_key', 'held_comment'),
	('idempotency_key', 'held_at'), ('idempotency_key', 'held_receipt_id'), ('idempotency_key', 'held_until'), ('idempotency_key', 'check_at'),
	('workflow_execution', 'last_sequence_number'), ('workflow_execution', 'external_id'),
	('tenant', 'suspended_at'), ('tenant', 'pending_full'), ('tenant', 'held_full'), ('tenant', 'max_pending'), ('tenant', 'max_workflow_promises'),
	('tenant', 'max_held'), ('tenant', 'max_held_bytes'), ('tenant', 'deleted_at'), ('tenant', 'max_waits'),
	('workflow_execution', 'promises_left'), ('workflow_execution', 'promises_counted_at'))
UNION ALL
SELECT format('the function %I is there already', p.proname)
FROM pg_proc p JOIN here ON p.pronamespace = here.oid
WHERE p.proname IN ('promise_race_lost', 'workflow_event_delete', 'workflow_event_write', 'promise_settle', 'promise_create',
	'promise_settle_before', 'promise_create_before', 'promise_key_live', 'promise_key_names', 'promise_await_settlements',
	'tenant_delete', 'tenant_contents', 'promise_final', 'promise_identity', 'promise_erase',
	'promise_deadline_outcome', 'promise_by_deadline', 'promise_key_uncertain',
	'delivery_create', 'delivery_due', 'delivery_renew',
	'promise_settle_early', 'receipt_is_final', 'receipt_end', 'receipt_keep', 'receipt_settle', 'receipt_preview')
UNION ALL
SELECT format('the type %I is there already', y.typname)
FROM pg_type y JOIN here ON y.typnamespace = here.oid
WHERE y.typrelid = 0 AND y.typname IN ('promise_settlement', 'promise_creation', 'promise_created', 'settle_result')
UNION ALL
SELECT format('the constraint %I is there already', k.conname)
FROM pg_constraint k JOIN here ON k.connamespace = here.oid
JOIN pg_class c ON c.oid = k.conrelid
WHERE (c.relname, k.conname) IN (('promise', 'promise_outcome'), ('promise', 'promise_outcome_resolved'),
	('promise', 'promise_times_finite'), ('promise', 'promise_timeout_outcome'), ('promise', 'promise_settled_by'),
	('idempotency_key', 'idempotency_key_held'), ('tenant', 'tenant_deleted_suspended'), ('tenant', 'tenant_max_waits'))
UNION ALL
SELECT format('the trigger %I is there already', g.tgname)
FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN here ON c.relnamespace = here.oid
WHERE (c.relname, g.tgname) IN (('workflow_execution', 'workflow_execution_delete_events'),
	('promise', 'promise_final'), ('promise', 'promise_identity'), ('promise', 'promise_delivery_due'))
UNION ALL
SELECT 'promise_workflow_execution_id_name_key is not a constraint on (workflow_execution_id, name) that is judged at once'
FROM pg_class x JOIN here ON x.relnamespace = here.oid
WHERE x.relname = 'promise_workflow_execution_id_name_key' AND NOT EXISTS (
	SELECT FROM pg_constraint k
	JOIN pg_class c ON c.oid = k.conrelid AND c.relname = 'promise' AND c.relnamespace = here.oid
	WHERE k.conindid = x.oid AND k.contype = 'u' AND NOT k.condeferrable AND (
		SELECT array_agg(a.attname::TEXT ORDER BY a.attname) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY(k.conkey)
	) = ARRAY['name', 'workflow_execution_id']
)`

const triggersSQL = `
SELECT format('%I on %s', g.tgname, g.tgrelid::REGCLASS)
FROM pg_trigger g
JOIN pg_class c ON c.oid = g.tgrelid
WHERE c.relnamespace = quote_ident(current_schema())::REGNAMESPACE AND NOT g.tgisinternal
	AND c.relname IN ('tenant', 'workflow_execution', 'promise', 'idempotency_key') AND g.tgname NOT IN ('workflow_execution_delete_events', 'promise_final', 'promise_identity')
ORDER BY 1`

// duplicatesSQL lists the promises that share workflow_execution_id and name. The
// legacy primary key allows them only if an id disagrees with its columns.
const duplicatesSQL = `
SELECT format('workflow_execution_id %s, name %L: ids %s', workflow_execution_id, name, string_agg(quote_literal(id), ', ' ORDER BY id))
FROM promise
GROUP BY workflow_execution_id, name
HAVING COUNT(*) > 1
ORDER BY 1
LIMIT 20`

// infiniteSQL lists the promises with an infinite time, which Go cannot represent.
const infiniteSQL = `
SELECT quote_literal(id) FROM promise
WHERE NOT (isfinite(created_at) AND isfinite(timeout_at) IS NOT FALSE AND isfinite(resolved_at) IS NOT FALSE)
ORDER BY 1
LIMIT 20`

func column(ctx context.Context, conn *pgx.Conn, sql string, args ...any) ([]string, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
