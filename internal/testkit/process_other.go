//go:build unix && !linux

package testkit

import "syscall"

// childAttributes puts a child in a group of its own, out of reach of the terminal's Ctrl-C.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
