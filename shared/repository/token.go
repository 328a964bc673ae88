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
	Exists bool
}

// TokenActive reports whether a promise token of a tenant is valid: the tenant is
// not suspended, the promise exists, and the token was not revoked, neither with
// the promise's tokens nor with those of the API key that asked for it. keyID is
// that key, or uuid.Nil if no key asked for the token. revokedAt is the promise's
// TokensRevokedAt when the token was issued.
func (r *Repository) TokenActive(
	ctx context.Context, tenant string, promiseID, keyID uuid.UUID, revokedAt *time.Time,
) (bool, error) {
	var key *string
	if keyID != uuid.Nil {
		key = nullIfEmpty(keyID.String())
	}
	row, err := run(ctx, r, "check token", tokenActiveSQL, named{
		"tenant": tenant, "promise": promiseID.String(), "revoked_at": revokedAt, "api_key": key,
	}, one[existsRow])
	return row.Exists, err
}

// RevokeTokens revokes all tokens of a promise that were issued until now, in any
// state of the promise, and returns the time of the revocation. Each call also
// revokes the tokens that were issued since the previous call.
func (r *Repository) RevokeTokens(ctx context.Context, tenant string, i promise.Identifier) (promise.TokensRevoked, error) {
	row, err := run(ctx, r, "revoke tokens", revokeTokensSQL, ofPromise(i, named{"tenant": tenant}), one[tokensRevokedRow])
	return promise.TokensRevoked{PromiseID: row.PromiseID, At: row.TokensRevokedAt}, err
}

type tokensRevokedRow struct {
	PromiseID       uuid.UUID
	TokensRevokedAt time.Time
}

// ListSigningKeys lists the public halves of the signing keys whose tokens are
// valid. While legacy tokens are valid, it also lists a row with promise.LegacyKID.
func (r *Repository) ListSigningKeys(ctx context.Context) ([]promise.SigningKey, error) {
	return run(ctx, r, "list signing keys", listSigningKeysSQL, named{}, all[promise.SigningKey])
}
