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

// Each form of go test reports a skipped test once on standard error and passes. Its standard output stays as its readers expect it.
func TestPlainOutput(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		skip.Now(t, "the go command's standard error is found in /proc")
	}
	path := t.TempDir() // a PATH with go and without node
	program, err := exec.LookPath("go")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(program, filepath.Join(path, "go")))
	wrapper := filepath.Join(path, "wrapper")
	require.NoError(t, os.WriteFile(wrapper, []byte("#!/bin/sh\n\"$@\"\nexit $?\n"), 0o700)) //nolint:gosec // go test runs it
	line := regexp.MustCompile(`(?m)^SKIP\tgithub\.com/flovyn/promises/shared/skip/testdata/plain\tTestFirst and perhaps others: there is no node, which nothing here runs on$`)
	run := func(t *testing.T, stderr *os.File, args ...string) (out, errors string) {
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

	t.Run("a list of packages", func(t *testing.T) {
		out, errors := run(t, nil, "./testdata/plain", "../routes")
		require.Regexp(t, `(?m)^ok  \tgithub\.com/flovyn/promises/shared/skip/testdata/plain\t`, out)
		require.Len(t, line.FindAllString(errors, -1), 1, errors)
	})
	t.Run("-json", func(t *testing.T) {
		out, errors := run(t, nil, "-json", "./testdata/plain")
		for text := range strings.Lines(out) {
			require.True(t, json.Valid([]byte(text)), text)
		}
		require.Regexp(t, line, errors)
	})
	t.Run("-v and -exec", func(t *testing.T) {
		out, errors := run(t, nil, "-v", "-exec", wrapper, "./testdata/plain")
		require.Contains(t, out, "--- SKIP: TestSecond")
		require.Regexp(t, line, errors)
	})
	for flag, name := range map[int]string{os.O_APPEND: "appended to", os.O_TRUNC: "written from its start"} {
		t.Run("a log file that is "+name+" keeps all its lines", func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "log")
			log, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|flag, 0o600)
			require.NoError(t, err)
			run(t, log, "./testdata/plain", "../../functions/authorize")
			require.NoError(t, log.Close())
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			if flag == os.O_APPEND {
				require.Regexp(t, line, string(text))
			}
			rest := line.ReplaceAllString(string(text), "")
			require.Regexp(t, `^\n*ok  \tgithub\.com/flovyn/promises/shared/skip/testdata/plain\t[0-9.]+s\n\?   \t\S+\t\[no test files\]\n$`, rest)
		})
	}
}

// Every test skips through this package, so that each skipped test is reported.
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
					t.Errorf("%s: %s: use shared/skip, which reports the skipped test", path, s.Sel.Name)
				}
			}
			return true
		})
		return nil
	})
	require.NoError(t, err)
}
