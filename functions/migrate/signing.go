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

// permissionPatience is how long migrate repeats a call that Secrets Manager
// denies. A deployment changes the policies a moment before it runs migrate, and
// they take effect later.
const permissionPatience = 5 * time.Minute

// checkSigningKey returns an error if the options need another SIGNING_KEY.
func (m migration) checkSigningKey(o options) error {
	if m.signingKey != "" && !secret.IsARN(m.signingKey) {
		if _, err := auth.ParseSigningKey(m.signingKey); err != nil {
			return fmt.Errorf("SIGNING_KEY: %w", err)
		}
	}
	if o.RotateSigningKey && !secret.IsARN(m.signingKey) {
		return errors.New("SIGNING_KEY must be the ARN of a secret to rotate the key in it. " +
			"If SIGNING_KEY is the key itself, set another one and run migrate")
	}
	return nil
}

// keepSigningKey sees to it that one key signs promise tokens, and that all
// processes can verify its tokens. It returns the key's kid. It makes a pair if
// there is none, or if the options ask for another. The public half is committed
// before the private half is written, so that no process signs with a key that no
// other can verify. A run that was killed in between leaves a public half that
// nobody signs with, and the next run makes a pair anew. The secret decides which
// key is current: the id of its version names the public half, so that migrate
// never reads the private one.
func (m migration) keepSigningKey(ctx context.Context, conf *pgx.ConnConfig, o options) (kid string, err error) {
	err = migrate.Locked(ctx, conf, func(conn *pgx.Conn) error {
		if kid, err = m.currentKey(ctx, conn); err != nil {
			return err
		}
		if kid == "" || o.RotateSigningKey {
			if kid, err = m.newKey(ctx, conn); err != nil {
				return err
			}
		}
		return retire(ctx, conn, kid, o.Revoke)
	})
	if err != nil {
		return "", fmt.Errorf("signing key: %w", err)
	}
	return kid, nil
}

// currentKey returns the kid of the key that signs, or "" if there is none, or
// none whose public half is in the table.
func (m migration) currentKey(ctx context.Context, conn *pgx.Conn) (kid string, err error) {
	if !secret.IsARN(m.signingKey) {
		key, err := auth.ParseSigningKey(m.signingKey)
		if err != nil {
			return "", err
		}
		return key.Public().KID, register(ctx, conn, key.Public())
	}
	var version string
	if err := m.whileDenied(ctx, func() (err error) {
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

// newKey makes a pair and returns its kid.
func (m migration) newKey(ctx context.Context, conn *pgx.Conn) (string, error) {
	key := auth.NewSigningKey()
	public := key.Public()
	var others bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM signing_key)").Scan(&others); err != nil {
		return "", err
	}
	if err := register(ctx, conn, public); err != nil {
		return "", err
	}
	if others { // then functions are at work: each reads the table again for a kid that it does not know
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(auth.KeysRefreshInterval):
		}
	}
	version := sha256.Sum256(public.PublicKey)
	err := m.whileDenied(ctx, func() error {
		return secret.Put(ctx, m.signingKey, hex.EncodeToString(version[:]), key.Text())
	})
	if err == nil {
		m.log.InfoContext(ctx, "new signing key", "kid", public.KID)
	}
	return public.KID, err
}

func register(ctx context.Context, conn *pgx.Conn, public promise.SigningKey) error {
	_, err := conn.Exec(ctx, "INSERT INTO signing_key (kid, public_key) VALUES ($1, $2) ON CONFLICT DO NOTHING", public.KID, public.PublicKey)
	return err
}

// retire gives each key but the current one the time by which its last token has
// expired, and deletes the keys whose time has come. With revoke it deletes all
// keys but the current one. A token lives 365 days at most; one day more is for a
// process that still has the old private half.
func retire(ctx context.Context, conn *pgx.Conn, kid string, revoke bool) error {
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

// whileDenied repeats a call that Secrets Manager denies.
func (m migration) whileDenied(ctx context.Context, call func() error) error {
	end := time.Now().Add(permissionPatience)
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := call()
		if !secret.Denied(err) || time.Until(end) < pause {
			return err
		}
		m.log.WarnContext(ctx, "Secrets Manager denies the call yet", "nextTryIn", pause.String(), "cause", err.Error())
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}
