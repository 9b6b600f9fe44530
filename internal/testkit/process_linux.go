package testkit

import "syscall"

// childAttributes puts a child in a group of its own, out of reach of the terminal's Ctrl-C, and has it killed when we
// are.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
