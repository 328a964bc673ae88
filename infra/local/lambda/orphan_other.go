//go:build !linux

package lambda

import "syscall"

func killWithParent(*syscall.SysProcAttr) {}
