// Package plain_test is a package of skipped tests for the test of shared/skip.
package plain_test

import (
	"testing"

	"github.com/flovyn/promises/shared/skip"
)

func TestFirst(t *testing.T)  { skip.Without(t, "node", "which nothing here runs on") }
func TestSecond(t *testing.T) { skip.Without(t, "node", "which nothing here runs on") }
