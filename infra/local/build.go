package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flovyn/promises/shared/routes"
)

const module = "github.com/flovyn/promises"

// build builds every function into dir as it is built for AWS, but for this
// machine.
func build(ctx context.Context, dir string) error {
	root, err := goTool(ctx, "", "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return fmt.Errorf("find the module %s (run this inside it): %w", module, err)
	}
	_, err = goTool(ctx, strings.TrimSpace(root), "build", "-tags", "lambda.norpc", "-trimpath", "-ldflags", "-s -w",
		"-o", dir+string(filepath.Separator), "./functions/...")
	if err != nil {
		return fmt.Errorf("build the functions: %w", err)
	}
	for _, f := range routes.Functions {
		if _, err := os.Stat(filepath.Join(dir, f.Name)); err != nil {
			return fmt.Errorf("build the functions: there is no functions/%s", f.Name)
		}
	}
	return nil
}

// goTool runs the go command and returns what it prints; its error is what it
// says went wrong.
func goTool(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "GOOS=") || strings.HasPrefix(kv, "GOARCH=") || strings.HasPrefix(kv, "DATABASE_URL=")
	}), "CGO_ENABLED=0")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil && stderr.Len() > 0 {
		err = errors.New(strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), err
}
