package repository

import (
	"context"
	_ "embed" // the queries
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/token_active.sql
var tokenActiveSQL string

//go:embed queries/revoke_tokens.sql
var revokeTokensSQL string

//go:embed queries/list_signing_keys.sql
var listSigningKeysSQL string

type existsRow struct {
	never
	Exists bool
}

// TokenActive reports whether a promise token of a tenant is in force: the
// tenant is not suspended, the promise exists, and neither the promise's tokens
// nor those of the API key that asked for it were revoked. keyID is uuid.Nil if
// no key asked for it. revokedAt is the promise's TokensRevokedAt when the
// token was issued.
func (r *Repository) TokenActive(
	ctx context.Context, tenant string, promiseID, keyID uuid.UUID, revokedAt *time.Time,
) (bool, error) {
	var key *string
	if keyID != uuid.Nil {
		key = orNull(keyID.String())
	}
	row, err := run[existsRow](ctx, r, statement{
		op: "token active", sql: tokenActiveSQL, args: []any{tenant, promiseID.String(), revokedAt, key},
	})
	return row.Exists, err
}

// RevokeTokens revokes all tokens of a promise that were issued until now,
// whatever the promise's state, and returns when. Each call is a revocation of
// its own: it also ends tokens that were issued since the previous call.
func (r *Repository) RevokeTokens(ctx context.Context, tenant string, i promise.Identifier) (promise.TokensRevoked, error) {
	id, key := arguments(i)
	row, err := run[tokensRevokedRow](ctx, r, statement{
		op: "revoke tokens", sql: revokeTokensSQL, args: []any{tenant, id, key}, identifies: true,
	})
	return promise.TokensRevoked{PromiseID: row.PromiseID, At: row.TokensRevokedAt}, err
}

type tokensRevokedRow struct {
	never
	PromiseID       uuid.UUID
	TokensRevokedAt time.Time
}

// ListSigningKeys lists the public halves of the keys whose tokens are valid, and
// a row of promise.LegacyKID while legacy tokens are.
func (r *Repository) ListSigningKeys(ctx context.Context) ([]promise.SigningKey, error) {
	return runAll[promise.SigningKey](ctx, r, statement{op: "list signing keys", sql: listSigningKeysSQL})
}
