package app

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/config"
)

func TestLoadSealingKeys(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	t.Run("not set: the first use fails", func(t *testing.T) {
		keys, err := loadSealingKeys(config.Config{}, log)
		require.NoError(t, err)
		_, err = keys.Get(t.Context())
		require.ErrorContains(t, err, "SEALING_KEYS is not set")
	})
	t.Run("malformed: the start fails, and the error does not quote it", func(t *testing.T) {
		_, err := loadSealingKeys(config.Config{SealingKeys: "whsec_secret"}, log)
		require.ErrorContains(t, err, "SEALING_KEYS: ")
		require.NotContains(t, err.Error(), "whsec_secret")
	})
}
