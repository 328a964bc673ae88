package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/migrate"
	"github.com/flovyn/promises/shared/seal"
	"github.com/flovyn/promises/shared/secret"
)

// checkSealingKeys returns an error if SEALING_KEYS is invalid, or if the options need an
// ARN in its place.
func (m migration) checkSealingKeys(o options) error {
	if m.sealingKeys != "" && !secret.IsARN(m.sealingKeys) {
		if _, err := seal.Parse(m.sealingKeys); err != nil {
			return fmt.Errorf("SEALING_KEYS: %w", err)
		}
	}
	if o.RotateSealingKey && !secret.IsARN(m.sealingKeys) {
		return errors.New("SEALING_KEYS must be the ARN of a secret for rotateSealingKey")
	}
	return nil
}

// ensureSealingKeys ensures that the secret has a key ring, and rotates it if the options
// ask for it. It returns "created", "rotated" or "". Only a rotation reads the ring.
// One write changes the ring, so that a run that is killed has rotated or has not.
func (m migration) ensureSealingKeys(ctx context.Context, conf *pgx.ConnConfig, o options) (did string, err error) {
	err = migrate.WithLock(ctx, conf, func(conn *pgx.Conn) error {
		var version string
		if err := m.retryDenied(ctx, func() (err error) {
			version, err = secret.Version(ctx, m.sealingKeys)
			return err
		}); err != nil {
			return err
		}
		switch {
		case version == "":
			did = "created"
			return m.createSealingKeys(ctx, conn)
		case o.RotateSealingKey:
			did = "rotated"
			return m.rotateSealingKeys(ctx, conn)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("sealing keys: %w", err)
	}
	return did, nil
}

// createSealingKeys writes a first key. It refuses to do so if the database has texts
// that a lost key has sealed.
func (m migration) createSealingKeys(ctx context.Context, conn *pgx.Conn) error {
	n, err := sealedByOthers(ctx, conn, nil)
	if err != nil {
		return err
	}
	if n > 0 {
		return fmt.Errorf("the secret is empty, and a lost key has encrypted %d secrets or kept bodies: restore the secret's former value", n)
	}
	return m.putSealingKeys(ctx, seal.Generate())
}

// rotateSealingKeys puts a new key first. It drops the key before the present first one,
// so no text may need that key, and no process may still seal with it.
func (m migration) rotateSealingKeys(ctx context.Context, conn *pgx.Conn) error {
	var text string
	var stored time.Time
	if err := m.retryDenied(ctx, func() (err error) {
		text, stored, err = secret.GetDated(ctx, m.sealingKeys)
		return err
	}); err != nil {
		return err
	}
	keys, err := seal.Parse(text)
	if err != nil {
		return err
	}
	if safe := stored.Add(auth.KeysMaxStale); time.Now().Before(safe) {
		return fmt.Errorf("the newest sealing key is too young, because a process may still encrypt with the key before it: rotate after %s",
			safe.UTC().Format(time.RFC3339))
	}
	n, err := sealedByOthers(ctx, conn, keys.Prefix())
	if err != nil {
		return err
	}
	if n > 0 {
		return fmt.Errorf("the newest sealing key has not encrypted %d secrets or kept bodies: run manage-tenants reencrypt before the rotation", n)
	}
	return m.putSealingKeys(ctx, keys.Rotate())
}

// sealedByOthers counts the texts that do not begin with the prefix.
func sealedByOthers(ctx context.Context, conn *pgx.Conn, prefix []byte) (n int, err error) {
	err = conn.QueryRow(ctx, `SELECT COUNT(*)
		FROM (
			SELECT sealed FROM destination_secret UNION ALL SELECT sealed FROM source_secret UNION ALL SELECT sealed FROM receipt_body
		) AS texts
		WHERE SUBSTRING(sealed FROM 1 FOR 9) IS DISTINCT FROM $1`, prefix).Scan(&n)
	return n, err
}

func (m migration) putSealingKeys(ctx context.Context, keys *seal.Keys) error {
	version := uuid.NewString()
	err := m.retryDenied(ctx, func() error { return secret.Put(ctx, m.sealingKeys, version, keys.Text()) })
	if err == nil {
		m.log.InfoContext(ctx, "new sealing key")
	}
	return err
}
