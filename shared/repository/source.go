package repository

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

var errSkeleton = errors.New("skeleton")

func (r *Repository) PutSource(ctx context.Context, tenant string, p promise.SourcePut) (s promise.Source, secrets []promise.SourceSecret, created bool, err error) {
	return promise.Source{}, nil, false, errSkeleton
}

func (r *Repository) GetSource(ctx context.Context, tenant, name string) (promise.Source, []promise.SourceSecret, error) {
	return promise.Source{}, nil, errSkeleton
}

func (r *Repository) ListSources(ctx context.Context, tenant string) ([]promise.Source, error) {
	return nil, errSkeleton
}

func (r *Repository) DeleteSource(ctx context.Context, tenant, name string) (uuid.UUID, error) {
	return uuid.Nil, errSkeleton
}

func (r *Repository) RotateSourceSecret(
	ctx context.Context, tenant, name string, n promise.Rotation, seal func(id uuid.UUID, version int) ([]byte, error),
) (promise.Source, []promise.SourceSecret, error) {
	return promise.Source{}, nil, errSkeleton
}

func (r *Repository) PreviewReceipt(ctx context.Context, tenant string, d promise.ReceiptDraft) (promise.ReceiptResult, error) {
	return promise.ReceiptResult{}, errSkeleton
}

func (r *Repository) ListReceipts(ctx context.Context, tenant string, f promise.ReceiptFilter, limit int) ([]promise.Receipt, bool, error) {
	return nil, false, errSkeleton
}

func (r *Repository) GetReceipt(ctx context.Context, tenant string, id uuid.UUID) (promise.Receipt, *promise.KeptBody, error) {
	return promise.Receipt{}, nil, errSkeleton
}
