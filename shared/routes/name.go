package routes

import (
	"regexp"
	"strings"
)

// deployedPrefix matches the part of a function's name in AWS that precedes its Name:
// promises-{stage}-, with a stage that the CDK app accepts.
var deployedPrefix = regexp.MustCompile(`^promises-[a-z][a-z0-9-]{0,19}-$`)

// PlainName returns the Name, in Functions, of the function that has the given name in
// AWS, in any stage. It returns every other name unchanged. An ambiguous name means
// the function with the longer Name: promises-x-batch-resolve is batch-resolve in the
// stage x, not resolve in the stage x-batch.
func PlainName(name string) string {
	plain := name
	for _, f := range Functions {
		prefix, ok := strings.CutSuffix(name, f.Name)
		if ok && deployedPrefix.MatchString(prefix) && (plain == name || len(f.Name) > len(plain)) {
			plain = f.Name
		}
	}
	return plain
}
