package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Two syntheses write the same bytes, so that a deployment changes only the resources whose definition changed.
func TestSynthesisIsRepeatable(t *testing.T) {
	t.Parallel()
	sums := func() map[string]string {
		dir, out, err := synthesize(t, map[string]string{"stage": "production"})
		require.NoError(t, err, out)
		all := map[string]string{}
		require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			sum := sha256.Sum256(b)
			all[strings.TrimPrefix(path, dir)] = hex.EncodeToString(sum[:])
			return err
		}))
		return all
	}
	require.Equal(t, sums(), sums())
}
