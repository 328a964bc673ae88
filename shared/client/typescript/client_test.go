// Package typescript_test compiles the TypeScript client and runs it against the local runner.
package typescript_test

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/openapi/openapitest"
	"github.com/flovyn/promises/shared/skip"
)

const (
	file   = "promises.ts"
	marker = "// From here on: what openapi-typescript 7.13.0 makes of shared/openapi/openapi.yaml.\n"
)

// packages are the tools of the tests. The client itself needs none.
var packages = []string{"openapi-typescript@7.13.0", "typescript@5.9.3", "@types/node@20.19.25"}

var update = flag.Bool("update", false, "write the types into "+file)

// TestClient compares the types of the client with the description, compiles the client and runs its test.
func TestClient(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("npm"); err != nil {
		require.Empty(t, os.Getenv("CI_SYNTH"), "Node is missing, and CI_SYNTH requires it")
	}
	skip.Without(t, "npm", "which has the TypeScript compiler")
	dir := t.TempDir()
	run(t, dir, "npm", append([]string{"install", "--no-audit", "--no-fund", "--silent", "--prefix", dir}, packages...)...)

	text, err := os.ReadFile(file)
	require.NoError(t, err)
	written, types, found := strings.Cut(string(text), marker)
	require.True(t, found)
	description := filepath.Join(dir, "types.json")
	require.NoError(t, os.WriteFile(description, describe(t, written), 0o600))
	run(t, dir, "npx", "openapi-typescript", description, "--default-non-nullable=false", "-o", filepath.Join(dir, "types.ts"))
	made, err := os.ReadFile(filepath.Join(dir, "types.ts"))
	require.NoError(t, err)
	made = made[strings.Index(string(made), "export interface components"):]
	made = []byte(strings.Split(string(made), "export type $defs")[0])
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(written+marker+"\n"+string(made)), 0o600))
	} else {
		require.Equal(t, string(made), strings.TrimPrefix(types, "\n"), "repeat with -update: the types are not those of the description")
	}

	source, err := filepath.Abs(file)
	require.NoError(t, err)
	tests, err := filepath.Abs("promises.test.ts")
	require.NoError(t, err)
	for _, name := range []string{source, tests} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(name)), text, 0o600))
	}
	guide, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	var blocks []byte
	for _, block := range regexp.MustCompile("(?s)\n```ts\n(.*?)```").FindAllSubmatch(guide, -1) {
		blocks = append(blocks, block[1]...)
	}
	require.NotEmpty(t, blocks)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "guide.ts"), append(blocks, "export { payment, receive };\n"...), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"type":"module"}`), 0o600))
	run(t, dir, "npx", "tsc", "--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes", "--noImplicitOverride", "--noUnusedLocals",
		"--target", "es2022", "--lib", "es2022,dom,dom.iterable,esnext.disposable", "--module", "nodenext", "--types", "node", "promises.ts", "promises.test.ts", "guide.ts")
	node := exec.CommandContext(t.Context(), "node", "--test", "promises.test.js")
	node.Dir = dir
	node.Env = append(os.Environ(), "READY_FILE="+startRunner(t, dir))
	out, err := node.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `(?m)^# pass [1-9]\d*$`, string(out))
	require.Regexp(t, `(?m)^# skipped 0$`, string(out))
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// describe returns a description that has the schemas that the client names, with those that they refer to.
func describe(t *testing.T, client string) []byte {
	t.Helper()
	d, err := openapitest.Load()
	require.NoError(t, err)
	schemas := openapi3.Schemas{}
	var add func(name string)
	add = func(name string) {
		if _, known := schemas[name]; known {
			return
		}
		schemas[name] = d.Components.Schemas[name]
		require.NotNil(t, schemas[name], name)
		text, err := json.Marshal(schemas[name])
		require.NoError(t, err)
		for _, ref := range regexp.MustCompile(`#/components/schemas/(\w+)`).FindAllStringSubmatch(string(text), -1) {
			add(ref[1])
		}
	}
	for _, name := range regexp.MustCompile(`components\["schemas"\]\["(\w+)"\]`).FindAllStringSubmatch(client, -1) {
		add(name[1])
	}
	text, err := json.Marshal(openapi3.T{
		OpenAPI: d.OpenAPI, Info: d.Info, Paths: openapi3.NewPaths(), Components: &openapi3.Components{Schemas: schemas},
	})
	require.NoError(t, err)
	return text
}

// startRunner runs the local runner until the test ends, and returns its ready file.
func startRunner(t *testing.T, dir string) string {
	t.Helper()
	binary, ready := filepath.Join(dir, "local"), filepath.Join(dir, "ready.json")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../../infra/local").CombinedOutput()
	require.NoError(t, err, "%s", out)
	data, err := os.MkdirTemp("", "typescript")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(data, 0o755)) //nolint:gosec // if root runs the test, Postgres runs as another user
	t.Cleanup(func() { os.RemoveAll(data) })
	runner := exec.CommandContext(context.WithoutCancel(t.Context()), binary, "--http", "127.0.0.1:0", "--lambda", "127.0.0.1:0",
		"--data", filepath.Join(data, "pg"), "--ready-file", ready)
	runner.Env = append(os.Environ(), "DATABASE_URL=") // a database of its own
	runner.Dir = "../../.."
	var log strings.Builder
	runner.Stderr, runner.Stdout = &log, &log
	require.NoError(t, runner.Start())
	t.Cleanup(func() {
		require.NoError(t, runner.Process.Signal(syscall.SIGTERM))
		_ = runner.Wait()
	})
	require.Eventually(t, func() bool {
		_, err := os.Stat(ready)
		return err == nil
	}, 5*time.Minute, 100*time.Millisecond)
	return ready
}
