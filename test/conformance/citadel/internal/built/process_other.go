//go:build unix && !linux

package built

import "syscall"

// childAttributes puts a child in a group of its own.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
