package store_test

import "syscall"

// dieWithParent has the kernel kill a child when the test dies without ending it.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
