// Command expire-promises is the Lambda of the schedule: it records the deadlines that pass, and deletes what nobody needs any
// more.
package main

import "github.com/flovyn/promises/shared/app"

func main() { app.RunSweep() }
