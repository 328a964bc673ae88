package seal_test

import (
	"fmt"

	"github.com/flovyn/promises/shared/seal"
)

// A rotation puts a new key first. The row is then sealed again.
func ExampleKeys_Rotate() {
	const purpose, row, version = "destination.secret", "7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11", 1
	keys := seal.Generate()
	stored, err := keys.Seal(purpose, row, version, []byte("whsec_..."))
	if err != nil {
		fmt.Println(err)
		return
	}

	keys = keys.Rotate()
	secret, err := keys.Open(purpose, row, version, stored)
	fmt.Println(string(secret), err, keys.NeedsReseal(stored))

	stored, err = keys.Seal(purpose, row, version, secret)
	fmt.Println(err, keys.NeedsReseal(stored))

	_, err = keys.Open(purpose, "another row", version, stored)
	fmt.Println(err)
	// Output:
	// whsec_... <nil> true
	// <nil> false
	// the sealed text was refused
}
