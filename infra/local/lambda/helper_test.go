package lambda_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/flovyn/promises/infra/local/lambda"
)

var odd string // the binary of testdata/odd

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "odd")
	if err != nil {
		panic(err)
	}
	odd = filepath.Join(dir, "bootstrap")
	build := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", odd, "./testdata/odd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// start returns a service of the functions. By default they run the binary of testdata/odd for at most a minute.
func start(t *testing.T, o lambda.Options, functions ...lambda.Function) *lambda.Service {
	t.Helper()
	for i := range functions {
		f := &functions[i]
		if f.Name == "" {
			f.Name = "odd"
		}
		if f.Path == "" {
			f.Path = odd
		}
		if f.Timeout == 0 {
			f.Timeout = time.Minute
		}
		f.MemoryMB = 256
	}
	s := lambda.New(functions, o)
	t.Cleanup(s.Close)
	return s
}
