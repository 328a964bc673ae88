package repository

import (
	"context"
	_ "embed" // the queries

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/delete_receipts.sql
var deleteReceiptsSQL string

//go:embed queries/refresh_held.sql
var refreshHeldSQL string

//go:embed queries/count_silent_sources.sql
var countSilentSourcesSQL string

// DeleteReceipts deletes at most limit expired receipts with their bodies, at most limit
// expired bodies, and at most limit retired secrets of sources. It skips locked rows. It
// returns the largest of the counts.
func (r *Repository) DeleteReceipts(ctx context.Context, limit int) (int, error) {
	row, err := run(ctx, r, "delete receipts", deleteReceiptsSQL, named{"limit": limit}, one[deletedReceiptsRow])
	return max(row.Receipts, row.Bodies, row.Secrets), err
}

type deletedReceiptsRow struct {
	Receipts int
	Bodies   int
	Secrets  int
}

// RefreshHeld counts the early settlements of at most limit sources whose ids follow
// after, and notes which of the sources have promise.MaxHeldBySource. It skips locked
// rows.
func (r *Repository) RefreshHeld(ctx context.Context, after uuid.UUID, limit int) (promise.HeldCount, error) {
	row, err := run(ctx, r, "refresh held", refreshHeldSQL, named{
		"after": after.String(), "limit": limit, "most": promise.MaxHeldBySource,
	}, one[heldRow])
	return promise.HeldCount{Last: orEmpty(row.Last), Counted: row.Counted, Reached: row.Reached, Dropped: row.Dropped}, err
}

type heldRow struct {
	Last    *uuid.UUID
	Counted int
	Reached []string
	Dropped []string
}

// SilentSources counts the enabled sources of all tenants that have verified a request
// within a day, but none within 15 minutes, and have refused others for 10 minutes since.
func (r *Repository) SilentSources(ctx context.Context) (int, error) {
	row, err := run(ctx, r, "count silent sources", countSilentSourcesSQL, named{}, one[silentRow])
	return row.Silent, err
}

type silentRow struct {
	Silent int
}
