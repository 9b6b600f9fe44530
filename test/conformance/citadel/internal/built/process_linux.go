package built

import "syscall"

// childAttributes puts a child in a group of its own and has it killed when the test is.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
