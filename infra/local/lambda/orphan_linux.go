package lambda

import "syscall"

// killWithParent makes the kernel kill the process when its parent dies, even by
// SIGKILL. An idle function would notice that the Runtime API is gone, but a busy one
// would run on until it prints something.
func killWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
