package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/seal"
	"github.com/flovyn/promises/shared/secret"
)

// secretPurpose is the purpose of the texts in destination_secret.sealed. The row is
// the destination's id.
const secretPurpose = "destination_secret.sealed"

// reencryptBatch and reencryptBytes bound the texts that reencrypt reads at once.
const (
	reencryptBatch = 100
	reencryptBytes = 4 << 20
)

// sealingKeys returns the key ring of SEALING_KEYS. If a text
// needs a key that the ring lacks, another process has rotated the ring: Refresh reads it
// again (see package seal). Without SEALING_KEYS each read fails.
func (s service) sealingKeys() *auth.Cached[*seal.Keys] { return s.sealing }

// loadSealingKeys returns the key ring of SEALING_KEYS. A secret in Secrets Manager is
// read when it is first needed. A ring in the configuration itself is checked at once.
func loadSealingKeys(conf config.Config, log *slog.Logger) (*auth.Cached[*seal.Keys], error) {
	text := conf.SealingKeys
	read := parsed(text, seal.Parse)
	switch {
	case text == "":
		read = func(context.Context) (*seal.Keys, error) { return nil, errors.New("SEALING_KEYS is not set") }
	case !secret.IsARN(text):
		keys, err := seal.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("SEALING_KEYS: %w", err)
		}
		read = auth.Always(keys)
	}
	return auth.NewCached("sealing keys", read, time.Now, log), nil
}

// newSecret returns a new signing secret of a destination, and its sealed form.
func (s service) newSecret(ctx context.Context, destination uuid.UUID, version int) (text string, sealed []byte, err error) {
	text = delivery.NewSecret()
	sealed, err = s.seal(ctx, secretPurpose, destination, version, []byte(text))
	return text, sealed, err
}

// openSecrets returns the signing secrets of a destination in the same order.
func (s service) openSecrets(ctx context.Context, destination uuid.UUID, secrets []promise.DestinationSecret) ([]string, error) {
	texts := make([]string, len(secrets))
	for i, sealed := range secrets {
		text, err := s.openSecret(ctx, destination, sealed.Version, sealed.Sealed)
		if err != nil {
			return nil, err
		}
		texts[i] = text
	}
	return texts, nil
}

// openSecret returns one signing secret of a destination.
func (s service) openSecret(ctx context.Context, destination uuid.UUID, version int, sealed []byte) (string, error) {
	text, err := s.open(ctx, secretPurpose, destination, version, sealed)
	if err != nil {
		err = unreadable(err, "The destination's secret cannot be decrypted at the moment. Repeat the call. If it still fails, rotate the secret.",
			fmt.Sprintf("secret %d of destination %s", version, destination))
	}
	return string(text), err
}

// open decrypts a text that the database stores. Its error is seal.ErrRefused if the
// ring's keys do not open it.
func (s service) open(ctx context.Context, purpose string, row uuid.UUID, version int, sealed []byte) ([]byte, error) {
	keys, err := s.sealingKeys().Get(ctx)
	if err == nil && !keys.HasKeyOf(sealed) {
		keys, err = s.sealingKeys().Refresh(ctx)
	}
	if err != nil {
		return nil, noKeys(err)
	}
	return keys.Open(purpose, row.String(), version, sealed)
}

// unreadable returns the error of a text that open cannot decrypt. what names the text
// for the log.
func unreadable(err error, detail, what string) error {
	if !errors.Is(err, seal.ErrRefused) {
		return err
	}
	return &promise.Error{Code: promise.CodeUnavailable, Detail: detail, Cause: fmt.Errorf("%s: %w", what, err)}
}

// seal encrypts a text for the database.
func (s service) seal(ctx context.Context, purpose string, row uuid.UUID, version int, text []byte) ([]byte, error) {
	keys, err := s.sealingKeys().Get(ctx)
	if err != nil {
		return nil, noKeys(err)
	}
	return keys.Seal(purpose, row.String(), version, text)
}

func noKeys(err error) error {
	return &promise.Error{Code: promise.CodeUnavailable, Detail: "The sealing keys cannot be read at the moment. Repeat the call.", Cause: err}
}

// reencrypt seals one batch of texts again, with the first key of the ring. It reads the
// ring again, because an older one would seal with a key that a rotation has replaced.
func (s service) reencrypt(ctx context.Context) (promise.Reencryption, error) {
	keys, err := s.sealingKeys().Refresh(ctx)
	if err != nil {
		return promise.Reencryption{}, noKeys(err)
	}
	rows, err := s.store.TextsToReseal(ctx, keys.Prefix(), reencryptBatch, reencryptBytes)
	if err != nil {
		return promise.Reencryption{}, err
	}
	var olds []promise.SealedText
	var news [][]byte
	for _, row := range rows {
		text, err := keys.Open(row.Purpose, row.RowID.String(), row.Version, row.Sealed)
		if err != nil {
			s.log.ErrorContext(ctx, "cannot decrypt a text", "column", row.Purpose, "row", row.RowID.String(), "version", row.Version)
			continue
		}
		sealed, err := keys.Seal(row.Purpose, row.RowID.String(), row.Version, text)
		if err != nil {
			return promise.Reencryption{}, err
		}
		olds, news = append(olds, row), append(news, sealed)
	}
	r := promise.Reencryption{Unreadable: len(rows) - len(olds), Done: len(olds) == 0}
	if !r.Done {
		r.Changed, err = s.store.ResealTexts(ctx, olds, news)
	}
	return r, err
}
