package main

import (
	"bytes"
	"context"
	"crypto/sha256"
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

// build builds every function into dir as it is built for AWS, but for this
// machine. The go command skips what it finds linked already, so it is let
// build into a kept folder; dir gets the binaries of this moment, which a later
// build does not touch.
func build(ctx context.Context, dir string) error {
	root, err := goTool(ctx, "", "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return fmt.Errorf("find the module %s (run this inside it): %w", module, err)
	}
	root = strings.TrimSpace(root)
	kept := keptFolder(root)
	if kept == "" {
		kept = dir
	}
	_, err = goTool(ctx, root, "build", "-tags", "lambda.norpc", "-trimpath", "-ldflags", "-s -w",
		"-o", kept+string(filepath.Separator), "./functions/...")
	if err != nil {
		return fmt.Errorf("build the functions: %w", err)
	}
	for _, f := range routes.Functions {
		if _, err := os.Stat(filepath.Join(root, "functions", f.Name)); err != nil {
			return fmt.Errorf("build the functions: %w", err)
		}
		if kept == dir {
			continue
		}
		if err := place(filepath.Join(kept, f.Name), filepath.Join(dir, f.Name)); err != nil {
			return fmt.Errorf("build the functions: %w", err)
		}
	}
	return nil
}

// keptFolder is where the binaries of the module at root are kept from start to
// start, or empty where the user has no cache folder.
func keptFolder(root string) string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	dir := filepath.Join(cache, "flovyn-promises-build", fmt.Sprintf("%x", sha256.Sum256([]byte(root)))[:16])
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return ""
	}
	return dir
}

// place links the file, or copies it where it cannot be linked.
func place(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // it was only read from
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// goTool runs the go command and returns what it prints; its error is what it
// says went wrong.
func goTool(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "GOOS=") || strings.HasPrefix(kv, "GOARCH=") ||
			strings.HasPrefix(kv, "DATABASE_URL=") || strings.HasPrefix(kv, "TOKEN_KEYS=") // the go command needs no secrets
	}), "CGO_ENABLED=0")
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
