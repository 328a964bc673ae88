package routes_test

import (
	"fmt"

	"github.com/flovyn/promises/shared/routes"
)

func ExamplePlainName() {
	fmt.Println(routes.PlainName("promises-dev-create-promise"))
	fmt.Println(routes.PlainName("promises-x-batch-resolve"))
	fmt.Println(routes.PlainName("another-function"))
	// Output:
	// create-promise
	// batch-resolve
	// another-function
}
