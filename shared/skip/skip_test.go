package skip_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/skip"
)

// A plain go test of a list of packages says what was skipped, once, and passes; so do its other forms, whose output stays
// what its readers expect.
func TestPlainOutput(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		skip.Now(t, "the go command's standard error is found in /proc")
	}
	path := t.TempDir() // has go, and no node
	program, err := exec.LookPath("go")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(program, filepath.Join(path, "go")))
	wrapper := filepath.Join(path, "wrapper")
	require.NoError(t, os.WriteFile(wrapper, []byte("#!/bin/sh\n\"$@\"\nexit $?\n"), 0o700)) //nolint:gosec // it is run
	line := regexp.MustCompile(`(?m)^SKIP\tgithub\.com/flovyn/promises/shared/skip/testdata/plain\tTestFirst and perhaps others: there is no node, which nothing here runs on$`)
	run := func(stderr *os.File, args ...string) (out, errors string) {
		t.Helper()
		cmd := exec.Command("go", append([]string{"test", "-count=1"}, args...)...)
		cmd.Env = append(os.Environ(), "PATH="+path, "CGO_ENABLED=0", "GOFLAGS=")
		var stdout, buffer bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &buffer
		if stderr != nil {
			cmd.Stdout, cmd.Stderr = stderr, stderr
		}
		require.NoError(t, cmd.Run(), "%s%s", &stdout, &buffer)
		return stdout.String(), buffer.String()
	}

	out, said := run(nil, "./testdata/plain", "../routes")
	require.Regexp(t, `(?m)^ok  \tgithub\.com/flovyn/promises/shared/skip/testdata/plain\t`, out)
	require.Len(t, line.FindAllString(said, -1), 1, said)

	out, said = run(nil, "-json", "./testdata/plain")
	for text := range strings.Lines(out) {
		require.True(t, json.Valid([]byte(text)), text)
	}
	require.Regexp(t, line, said)

	out, said = run(nil, "-v", "-exec", wrapper, "./testdata/plain")
	require.Contains(t, out, "--- SKIP: TestSecond")
	require.Regexp(t, line, said)

	// A log file: nothing is written over, whether or not the file is appended to.
	for _, flags := range []int{os.O_APPEND, os.O_TRUNC} {
		name := filepath.Join(t.TempDir(), "log")
		log, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|flags, 0o600)
		require.NoError(t, err)
		run(log, "./testdata/plain", "../../functions/authorize")
		require.NoError(t, log.Close())
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		if flags == os.O_APPEND {
			require.Regexp(t, line, string(text))
		}
		rest := line.ReplaceAllString(string(text), "")
		require.Regexp(t, `^\n*ok  \tgithub\.com/flovyn/promises/shared/skip/testdata/plain\t[0-9.]+s\n\?   \t\S+\t\[no test files\]\n$`, rest)
	}
}

// No test skips without saying so.
func TestNothingIsSkippedInSilence(t *testing.T) {
	t.Parallel()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				switch s.Sel.Name {
				case "Skip", "Skipf", "SkipNow":
					t.Errorf("%s: %s: use shared/skip, which says it where it is seen", path, s.Sel.Name)
				}
			}
			return true
		})
		return nil
	})
	require.NoError(t, err)
}
