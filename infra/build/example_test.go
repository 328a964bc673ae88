package build_test

import (
	"fmt"
	"path/filepath"

	"github.com/flovyn/promises/infra/build"
)

// Functions builds into a folder, and Binary finds a function in it. The folder of each binary can be deployed without other files.
func ExampleBinary() {
	path := build.Binary("dist", "resolve-by-id")
	fmt.Println(filepath.ToSlash(path))
	// Output: dist/resolve-by-id/bootstrap
}
