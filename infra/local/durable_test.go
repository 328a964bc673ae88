package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/skip"
)

const durableFolder = "../engines/durable"

// durablePackages returns the folder node_modules of the durable functions' SDK. The first test on a machine installs it into the
// user's cache folder.
func durablePackages(t *testing.T) string {
	t.Helper()
	const use = "which the durable functions' SDK needs"
	skip.Without(t, "node", use)
	skip.Without(t, "npm", use)
	lock, err := os.ReadFile(filepath.Join(durableFolder, "package-lock.json"))
	require.NoError(t, err)
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	hash := sha256.Sum256(lock)
	folder := filepath.Join(cache, "flovyn-promises-npm", hex.EncodeToString(hash[:8]))
	installed := filepath.Join(folder, "node_modules")
	if _, err := os.Stat(installed); err == nil {
		return installed
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(folder), 0o750))
	fresh, err := os.MkdirTemp(filepath.Dir(folder), "install-")
	require.NoError(t, err)
	defer os.RemoveAll(fresh) //nolint:errcheck // after the rename there is nothing left
	for _, name := range []string{"package.json", "package-lock.json"} {
		text, err := os.ReadFile(filepath.Join(durableFolder, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(fresh, name), text, 0o600))
	}
	npm := exec.Command("npm", "ci", "--ignore-scripts", "--no-fund", "--no-audit")
	npm.Dir = fresh
	if out, err := npm.CombinedOutput(); err != nil {
		t.Logf("%s", out)
		skip.Now(t, "npm cannot install the durable functions' SDK")
	}
	if err := os.Rename(fresh, folder); err != nil { // another process was first
		require.DirExists(t, installed, "%v", err)
	}
	return installed
}

// A durableLambda is a process that runs the durable function of the guide, on the test runner of AWS's SDK.
type durableLambda struct {
	url    string // completes callbacks
	input  io.Writer
	output *bufio.Scanner
}

// startDurable starts the process.
func startDurable(t *testing.T) *durableLambda {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Symlink(durablePackages(t), filepath.Join(dir, "node_modules")))
	script, err := os.ReadFile(filepath.Join(durableFolder, "lambda.mjs"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "lambda.mjs"), script, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "workflow.mjs"), []byte(guideCode(t, "js")), 0o600))
	node := exec.Command("node", "--no-warnings", "lambda.mjs")
	node.Dir = dir
	node.Env = append(os.Environ(), "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=local")
	node.Stderr = os.Stderr
	input, err := node.StdinPipe()
	require.NoError(t, err)
	output, err := node.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, node.Start())
	t.Cleanup(func() {
		input.Close() // ends it
		node.Wait()   //nolint:errcheck // a test that fails leaves it with output
	})
	d := &durableLambda{input: input, output: bufio.NewScanner(output)}
	var first struct{ URL string }
	d.read(t, &first)
	d.url = first.URL
	return d
}

func (d *durableLambda) write(t *testing.T, line string) {
	t.Helper()
	_, err := fmt.Fprintln(d.input, line)
	require.NoError(t, err)
}

func (d *durableLambda) read(t *testing.T, line any) {
	t.Helper()
	require.True(t, d.output.Scan(), "the process has ended: %v", d.output.Err())
	require.NoError(t, json.Unmarshal(d.output.Bytes(), line), "%s", d.output.Bytes())
}

// The durable function of the guide waits for a promise, and gets its outcome.
func TestDurableFunction(t *testing.T) {
	t.Parallel()
	d := startDurable(t)
	r := startCommand(t, []string{"AWS_ENDPOINT_URL_LAMBDA=" + d.url}, []string{localBinary}, "--data", filepath.Join(tempFolder(t), "data")).awaitReady(t)
	d.write(t, fmt.Sprintf(`{"endpoint":%q}`, r.ready.LambdaURL))
	must := func(function, payload string) (answer struct{ Promises []struct{ PromiseID string } }) {
		t.Helper()
		out := r.lambda(t, function, payload)
		require.Nil(t, out.FunctionError, "%s", out.Payload)
		require.NoError(t, json.Unmarshal(out.Payload, &answer))
		return answer
	}
	must("manage-tenants", `{"action":"create-tenant","slug":"acme"}`)
	for order, c := range map[string]struct{ function, fields, result string }{
		"resolved":  {"resolve", `"value":{"amount": 42}`, `{"paid":{"amount":42}}`},
		"rejected":  {"reject", `"error":"no funds"`, `{"unpaid":"promise_rejected","because":"no funds"}`},
		"cancelled": {"cancel-promise", `"reason":"not needed"`, `{"unpaid":"promise_cancelled","because":"not needed"}`},
		"timed out": {"extend-promise", `"timeoutMs":1`, `{"unpaid":"promise_timed_out","because":"Callback failed"}`},
	} {
		t.Run(order, func(t *testing.T) {
			d.write(t, fmt.Sprintf(`{"orderId":%q}`, order))
			var id string
			require.Eventually(t, func() bool {
				list := must("list-promises", fmt.Sprintf(`{"tenant":"acme","workflowId":%q,"name":"payment"}`, order))
				if len(list.Promises) > 0 {
					id = list.Promises[0].PromiseID
				}
				return id != ""
			}, time.Minute, 20*time.Millisecond, "%s", &r.stderr)
			must(c.function, fmt.Sprintf(`{"tenant":"acme","promiseId":%q,%s}`, id, c.fields))
			var got struct {
				OrderID, Error string
				Result         json.RawMessage
			}
			d.read(t, &got)
			require.Equal(t, []string{order, ""}, []string{got.OrderID, got.Error})
			require.JSONEq(t, c.result, string(got.Result))
		})
	}
}
