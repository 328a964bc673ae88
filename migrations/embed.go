// Package migrations holds the schema's history as plain SQL, embedded so that
// the migrate function carries it. Files are applied in the order of their
// names, each in one transaction, and are never edited once released.
package migrations

import "embed"

// FS holds the .sql files.
//
//go:embed *.sql
var FS embed.FS
