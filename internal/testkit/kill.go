package testkit

import "syscall"

// Kill ends the process as kill -9 does: it gets no chance to clean up. It returns when the process has ended.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL) // gone already is fine
	<-p.done
}
