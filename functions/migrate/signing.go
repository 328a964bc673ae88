package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/migrate"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/secret"
)

// permissionPatience limits the time for which migrate repeats a call that Secrets
// Manager denies. A deployment changes the policies just before it runs migrate,
// and they take effect later.
const permissionPatience = 5 * time.Minute

// checkSigningKey returns an error if SIGNING_KEY is invalid, or if the options need
// an ARN in its place.
func (m migration) checkSigningKey(o options) error {
	if m.signingKey != "" && !secret.IsARN(m.signingKey) {
		if _, err := auth.ParseSigningKey(m.signingKey); err != nil {
			return fmt.Errorf("SIGNING_KEY: %w", err)
		}
	}
	if o.RotateSigningKey && !secret.IsARN(m.signingKey) {
		return errors.New("SIGNING_KEY must be the ARN of a secret for rotateSigningKey. " +
			"If SIGNING_KEY is the key itself, set another one and run migrate")
	}
	return nil
}

// ensureSigningKey ensures that one key signs promise tokens and that all processes
// can verify them. It returns the key's kid. It creates a key pair if the secret
// has none, or if the options ask for a rotation. It commits the public half before
// it writes the private half, so that no process signs with a key that another
// process cannot verify. If a run is killed in between, its public half stays
// unused and the next run creates another pair. The secret decides which key is
// current. The id of its version is the hash of the public half, so that migrate
// never reads the private half.
func (m migration) ensureSigningKey(ctx context.Context, conf *pgx.ConnConfig, o options) (kid string, err error) {
	err = migrate.WithLock(ctx, conf, func(conn *pgx.Conn) error {
		if kid, err = m.currentSigningKey(ctx, conn); err != nil {
			return err
		}
		if kid == "" || o.RotateSigningKey {
			if kid, err = m.addSigningKey(ctx, conn); err != nil {
				return err
			}
		}
		return retireOthers(ctx, conn, kid, o.Revoke)
	})
	if err != nil {
		return "", fmt.Errorf("signing key: %w", err)
	}
	return kid, nil
}

// currentSigningKey returns the kid of the key that signs, or "" if the secret has
// no key or the table does not have its public half.
func (m migration) currentSigningKey(ctx context.Context, conn *pgx.Conn) (kid string, err error) {
	if !secret.IsARN(m.signingKey) {
		key, err := auth.ParseSigningKey(m.signingKey)
		if err != nil {
			return "", err
		}
		return key.Public().KID, insertPublic(ctx, conn, key.Public())
	}
	var version string
	if err := m.retryDenied(ctx, func() (err error) {
		version, err = secret.Version(ctx, m.signingKey)
		return err
	}); err != nil {
		return "", err
	}
	err = conn.QueryRow(ctx, "SELECT kid FROM signing_key WHERE encode(sha256(public_key), 'hex') = $1", version).Scan(&kid)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return kid, err
}

// addSigningKey creates a key pair and returns its kid.
func (m migration) addSigningKey(ctx context.Context, conn *pgx.Conn) (string, error) {
	key := auth.NewSigningKey()
	public := key.Public()
	var others bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM signing_key)").Scan(&others); err != nil {
		return "", err
	}
	if err := insertPublic(ctx, conn, public); err != nil {
		return "", err
	}
	if others { // functions may be running: wait until each of them reads the table again for an unknown kid
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(auth.KeysRefreshInterval):
		}
	}
	version := sha256.Sum256(public.PublicKey)
	err := m.retryDenied(ctx, func() error {
		return secret.Put(ctx, m.signingKey, hex.EncodeToString(version[:]), key.Text())
	})
	if err == nil {
		m.log.InfoContext(ctx, "new signing key", "kid", public.KID)
	}
	return public.KID, err
}

func insertPublic(ctx context.Context, conn *pgx.Conn, public promise.SigningKey) error {
	_, err := conn.Exec(ctx, "INSERT INTO signing_key (kid, public_key) VALUES ($1, $2) ON CONFLICT DO NOTHING", public.KID, public.PublicKey)
	return err
}

// retireOthers sets the end of each key other than the current one to the time at
// which its last token has expired, and deletes the keys that have ended. With
// revoke it deletes all keys other than the current one. A token lives at most 365
// days. The 366th day covers a process that still has the old private half.
func retireOthers(ctx context.Context, conn *pgx.Conn, kid string, revoke bool) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE signing_key
			SET verify_until = CASE WHEN kid <> $1 THEN NOW() + INTERVAL '366 days' END
			WHERE algorithm = 'EdDSA' AND (kid = $1) <> (verify_until IS NULL)`, kid)
		if err == nil {
			_, err = tx.Exec(ctx, "DELETE FROM signing_key WHERE verify_until <= NOW() OR $2 AND algorithm = 'EdDSA' AND kid <> $1", kid, revoke)
		}
		return err
	})
}

// retryDenied repeats a call that Secrets Manager denies.
func (m migration) retryDenied(ctx context.Context, call func() error) error {
	end := time.Now().Add(permissionPatience)
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := call()
		if !secret.Denied(err) || time.Until(end) < pause {
			return err
		}
		m.log.WarnContext(ctx, "Secrets Manager still denies the call", "nextTryIn", pause.String(), "cause", err.Error())
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}
