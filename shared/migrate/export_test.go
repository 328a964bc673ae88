package migrate

// RunFiles is Run with files of the test's own.
var RunFiles = run
