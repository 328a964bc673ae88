package repository

import (
	"context"
	_ "embed" // the queries

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/list_texts_to_reseal.sql
var listTextsToResealSQL string

//go:embed queries/reseal_texts.sql
var resealTextsSQL string

// TextsToReseal lists at most limit encrypted texts of all tenants that a sealing key
// other than the first has encrypted. prefix begins the texts of the first key. Together
// they have at most the given bytes, but there is at least one if any is left.
func (r *Repository) TextsToReseal(ctx context.Context, prefix []byte, limit, bytes int) ([]promise.SealedText, error) {
	return run(ctx, r, "list texts to reseal", listTextsToResealSQL, named{"prefix": prefix, "limit": limit, "bytes": bytes}, all[promise.SealedText])
}

// ResealTexts replaces encrypted texts by others. news has a text for each element of
// olds. A text that has changed meanwhile stays as it is. It returns the number of texts
// that it changed.
func (r *Repository) ResealTexts(ctx context.Context, olds []promise.SealedText, news [][]byte) (int, error) {
	purposes, rows, versions, texts := make([]string, len(olds)), make([]string, len(olds)), make([]int, len(olds)), make([][]byte, len(olds))
	for i, s := range olds {
		purposes[i], rows[i], versions[i], texts[i] = s.Purpose, s.RowID.String(), s.Version, s.Sealed
	}
	row, err := run(ctx, r, "reseal texts", resealTextsSQL, named{
		"purposes": purposes, "rows": rows, "versions": versions, "olds": texts, "news": news,
	}, one[resealedRow])
	return row.Changed, err
}

type resealedRow struct {
	Changed int
}
