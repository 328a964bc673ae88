// Package skip skips tests that this machine cannot run and reports each reason on
// the go command's standard error, once for each package. go test itself prints
// nothing about the tests of a package that passes, so that the output of
// "go test ./..." would not show that tests were skipped.
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

var reported sync.Map // the reasons that this process has reported

// Now skips the test for a reason, which is a clause such as "Node is missing". If
// Now cannot open the go command's standard error, only the test's own output has
// the reason. A cached test result does not report it again.
func Now(t testing.TB, reason string) {
	t.Helper()
	if _, before := reported.LoadOrStore(reason, true); !before {
		report(fmt.Sprintf("SKIP\t%s\t%s and perhaps others: %s\n", testedPackage(), t.Name(), reason))
	}
	t.Skip(reason)
}

// Without skips the test if PATH has no such program. why is a clause that says how
// the test uses the program.
func Without(t testing.TB, program, why string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		Now(t, "there is no "+program+", "+why)
	}
}

// testedPackage returns the import path of the package whose tests this process runs.
func testedPackage() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Path != "" {
		return strings.TrimSuffix(info.Path, ".test")
	}
	return os.Args[0]
}

// report writes a line to the go command's standard error.
func report(line string) {
	if out := goStderr(); out != nil {
		_, _ = out.WriteString(line)
		_ = out.Close()
	}
}
