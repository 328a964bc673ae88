// Command expire-promises is the scheduled Lambda that records deadlines, deletes expired idempotency keys and old promises, and
// counts what each tenant has.
package main

import "github.com/flovyn/promises/shared/app"

func main() { app.RunSweep() }
