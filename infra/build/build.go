// Package build builds the functions as they ship.
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

// flags make a function small, and the same bytes of the same source, wherever
// that lies and whatever its last commit is.
var flags = []string{"-tags", "lambda.norpc", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w"}

// Target is what a function is built for, as in GOOS and GOARCH. The zero Target
// is this machine.
type Target struct{ OS, Arch string }

// Lambda is what the functions run on in AWS.
var Lambda = Target{"linux", "arm64"}

// Binary is where Functions puts a function: the only file of a folder, under
// the name that Lambda's runtime provided.al2023 looks for.
func Binary(dir, function string) string { return filepath.Join(dir, function, "bootstrap") }

// Functions builds every function of routes.Functions into dir. The go command
// skips what it finds linked already, so it is let build into a kept folder;
// dir gets the binaries of this moment, which a later build does not touch.
func Functions(ctx context.Context, dir string, target Target) error {
	root, err := goTool(ctx, "", Target{}, "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return fmt.Errorf("find the module %s (run this inside it): %w", module, err)
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
		if err := place(filepath.Join(kept, f.Name), Binary(dir, f.Name)); err != nil {
			return fmt.Errorf("build the functions: %w", err)
		}
	}
	return nil
}

// place links the file, or copies it where it cannot be linked.
func place(from, to string) error {
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
	defer source.Close() //nolint:errcheck // it was only read from
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// goTool runs the go command and returns what it prints; its error is what it
// says went wrong.
func goTool(ctx context.Context, dir string, target Target, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "GOOS=") || strings.HasPrefix(kv, "GOARCH=") ||
			strings.HasPrefix(kv, "DATABASE_URL=") || strings.HasPrefix(kv, "SIGNING_KEY=") || strings.HasPrefix(kv, "TOKEN_KEYS=") // the go command needs no secrets
	}), "CGO_ENABLED=0")
	if target != (Target{}) {
		cmd.Env = append(cmd.Env, "GOOS="+target.OS, "GOARCH="+target.Arch)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 2 * time.Second // what it has started may hold on
	err := cmd.Run()
	if err != nil && stderr.Len() > 0 {
		err = errors.New(strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), err
}
