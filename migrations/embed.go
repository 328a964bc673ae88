// Package migrations holds the schema's history as plain SQL, embedded so that
// the migrate function carries it. Files are applied in the order of their
// names, each in one transaction, and are never edited once released.
package migrations

import "embed"

// FS holds the .sql files.
//
//go:embed *.sql
var FS embed.FS

// Roles makes the roles of a deployment, and Grants says what they may do with
// the schema of the last file of FS. Unlike those files, both can be edited: they
// are run whole by each migration that is asked for them.
var (
	//go:embed access/roles.sql
	Roles string
	//go:embed access/grants.sql
	Grants string
)
