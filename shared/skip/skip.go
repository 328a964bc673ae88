// Package skip skips tests that this machine cannot run, and says so where it
// is seen: go test says nothing of a package that passes, so that a plain
// "go test ./..." would look the same with and without them. Each reason is said
// once for each package, as a line on the go command's standard error.
package skip

import (
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
)

var said sync.Map // reasons

// Now skips the test for a reason, which is a clause such as "Node is missing".
// Where the go command's standard error cannot be had, the reason is in the
// test's own output alone. go test says it again only when it runs the tests
// again: not with a result from its cache.
func Now(t testing.TB, reason string) {
	t.Helper()
	if _, before := said.LoadOrStore(reason, true); !before {
		say(fmt.Sprintf("SKIP\t%s\t%s and perhaps others: %s\n", testedPackage(), t.Name(), reason))
	}
	t.Skip(reason)
}

// Without skips the test if PATH has no such program. why says what the test
// needs it for.
func Without(t testing.TB, program, why string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		Now(t, "there is no "+program+", "+why)
	}
}

// testedPackage is the import path of the package whose tests this process runs.
func testedPackage() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Path != "" {
		return strings.TrimSuffix(info.Path, ".test")
	}
	return os.Args[0]
}

// say writes a line where somebody sees it.
func say(line string) {
	if out := goStderr(); out != nil {
		_, _ = out.WriteString(line)
		_ = out.Close()
	}
}
