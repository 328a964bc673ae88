package migrate

// RunFiles is Run with other files than those of migrations/.
var RunFiles = run
