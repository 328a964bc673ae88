// Package migrations embeds the schema's history as plain SQL, for the migrate
// function. Files are applied in the order of their names, each in one
// transaction. The statements of a released file never change; its comments may.
// The folder functions has the current text of each database function. It is not
// embedded: migrations/snapshot copies it into files of the history.
package migrations

import "embed"

// FS holds the .sql files.
//
//go:embed *.sql
var FS embed.FS

// Roles creates the roles of a deployment, and Grants sets their rights in the
// schema that the last file of FS makes. Both files may be edited: a migration
// with roles runs them whole each time.
var (
	//go:embed access/roles.sql
	Roles string
	//go:embed access/grants.sql
	Grants string
)
