// Package build builds the functions as they are deployed.
package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flovyn/promises/shared/routes"
)

const module = "github.com/flovyn/promises"

// flags make a binary small and reproducible: the same source gives the same bytes in
// any folder and at any commit.
var flags = []string{"-tags", "lambda.norpc", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w"}

// A Target is a platform, as in GOOS and GOARCH. The zero Target is this machine.
type Target struct{ OS, Arch string }

// Lambda is the platform of the functions in AWS.
var Lambda = Target{"linux", "arm64"}

// Binary returns the path of a function's binary, if dir was given to Functions. The
// binary is the only file in its folder. Its name, bootstrap, is the one that Lambda's
// runtime provided.al2023 runs.
func Binary(dir, function string) string { return filepath.Join(dir, function, "bootstrap") }

// Functions builds every function of routes.Functions for target. It places the binaries
// in dir, which must not contain them yet; Binary returns their paths. A later build
// does not change them.
//
// It runs the go command, which must be found in PATH, inside this module. The go
// command builds into a folder in the user's cache that is kept from build to build, so
// that it links only functions that changed. The binaries in dir are hard links to
// those files, or copies if dir is on another file system.
func Functions(ctx context.Context, dir string, target Target) error {
	root, err := goTool(ctx, "", Target{}, "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return fmt.Errorf("find the module %s: %w (run the command in a folder of the module)", module, err)
	}
	root = strings.TrimSpace(root)
	kept, release, err := keptFolder(ctx, root, target)
	if err != nil {
		if kept, release, err = TemporaryFolder(); err != nil {
			return fmt.Errorf("build the functions: %w", err)
		}
	}
	defer release()
	args := append(append([]string{"build"}, flags...), "-o", kept+string(filepath.Separator), "./functions/...")
	if _, err = goTool(ctx, root, target, args...); err != nil {
		return fmt.Errorf("build the functions: %w", err)
	}
	for _, f := range routes.Functions {
		if _, err := os.Stat(filepath.Join(root, "functions", f.Name)); err != nil {
			return fmt.Errorf("build the functions: %w", err)
		}
		if err := linkOrCopy(filepath.Join(kept, f.Name), Binary(dir, f.Name)); err != nil {
			return fmt.Errorf("build the functions: %w", err)
		}
	}
	return nil
}

// linkOrCopy makes a hard link to the file, or a copy if that fails.
func linkOrCopy(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if os.Link(from, to) == nil {
		return nil
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // the file was only read
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// goTool runs the go command and returns its standard output. The error has the text of
// its standard error. The command gets no secrets from the environment.
func goTool(ctx context.Context, dir string, target Target, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "GOOS=") || strings.HasPrefix(kv, "GOARCH=") ||
			strings.HasPrefix(kv, "DATABASE_URL=") || strings.HasPrefix(kv, "SIGNING_KEY=") || strings.HasPrefix(kv, "TOKEN_KEYS=")
	}), "CGO_ENABLED=0")
	if target != (Target{}) {
		cmd.Env = append(cmd.Env, "GOOS="+target.OS, "GOARCH="+target.Arch)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 2 * time.Second // processes that it started may keep its output open
	err := cmd.Run()
	if err != nil && stderr.Len() > 0 {
		err = errors.New(strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), err
}
