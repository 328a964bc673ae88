package localpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// minMajor is the oldest Postgres that the schema runs on.
const minMajor = 15

// binaries describes a folder that contains postgres and initdb.
type binaries struct {
	dir     string
	version string
	major   int
}

func (b binaries) path(program string) string { return filepath.Join(b.dir, program) }

// A source finds the binaries and the port of a start. Tests replace its parts.
type source struct {
	search   string   // a list of folders, as in PATH; the first suitable version is used
	globs    []string // patterns of more folders; the highest version is used
	download func(ctx context.Context, major int, log io.Writer) (dir string, err error)
	port     func() (int, error) // returns a free port
}

func machine() source {
	return source{
		search: os.Getenv("PATH"),
		globs: []string{
			"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
			"/usr/pgsql-*/bin",          // Red Hat
			"/opt/homebrew/opt/postgresql*/bin",
			"/usr/local/opt/postgresql*/bin",
			"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
			"/Applications/Postgres.app/Contents/Versions/*/bin",
		},
		download: archive{url: npmRegistry, hashes: hashes}.download,
		port:     freePort,
	}
}

// find returns binaries of minMajor or later. If major is not 0, they have exactly
// that major version: Postgres runs a cluster only with the version that created it.
func (s source) find(ctx context.Context, major int, owner *account, log io.Writer) (binaries, error) {
	fit := func(b binaries) bool { return b.major >= minMajor && (major == 0 || b.major == major) }
	for _, dir := range filepath.SplitList(s.search) {
		if b, ok := inspect(dir, owner); ok && fit(b) {
			return b, nil
		}
	}
	var found []binaries
	for _, glob := range s.globs {
		dirs, _ := filepath.Glob(glob)
		for _, dir := range dirs {
			if b, ok := inspect(dir, owner); ok && fit(b) {
				found = append(found, b)
			}
		}
	}
	if len(found) > 0 {
		return slices.MaxFunc(found, func(a, b binaries) int { return a.major - b.major }), nil
	}

	what, advice := fmt.Sprintf("Postgres %d or later", minMajor), "install one (Debian: apt-get install postgresql; macOS: brew install postgresql)"
	if major != 0 {
		what, advice = fmt.Sprintf("Postgres %d, which created the data folder's cluster", major), "install it"
	}
	dir, err := s.download(ctx, major, log)
	if err == nil {
		b, ok := inspect(dir, owner)
		if ok && fit(b) {
			return b, nil
		}
		err = fmt.Errorf("the binaries in %s do not run here", dir)
	}
	if ctx.Err() != nil {
		return binaries{}, ctx.Err()
	}
	return binaries{}, fmt.Errorf("found no %s: %s, or set DATABASE_URL; the download failed: %w", what, advice, err)
}

var versionLine = regexp.MustCompile(`^postgres \(PostgreSQL\) ((\d+)\S*)`)

// inspect reports whether a folder contains server binaries that the account can
// run, and their version. It follows a link to the folder with the other programs.
func inspect(dir string, owner *account) (binaries, bool) {
	postgres, err := exec.LookPath(filepath.Join(dir, "postgres"))
	if err != nil || !filepath.IsAbs(dir) {
		return binaries{}, false
	}
	if real, err := filepath.EvalSymlinks(postgres); err == nil {
		postgres = real
	}
	b := binaries{dir: filepath.Dir(postgres)}
	if _, err := exec.LookPath(b.path("initdb")); err != nil {
		return binaries{}, false
	}
	out, err := owner.command(postgres, "--version").Output()
	if err != nil {
		return binaries{}, false
	}
	m := versionLine.FindStringSubmatch(strings.TrimSpace(string(out)))
	if m == nil {
		return binaries{}, false
	}
	b.version = m[1]
	b.major, err = strconv.Atoi(m[2])
	return b, err == nil
}

var errNoVersion = errors.New("no archive of this version for this platform")
