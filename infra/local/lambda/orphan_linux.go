package lambda

import "syscall"

// dieWithUs has the process killed when ours is gone, even if it was killed: an
// idle function finds that out by itself, but one that is at work for a minute
// would go on until it has something to print.
func dieWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
