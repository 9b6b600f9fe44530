// Package unixpeer tells which process is at the other end of a Unix socket, and keeps telling it apart from a later one
// with the same number.
package unixpeer

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
)

// Peer is the process at the other end of a Unix socket, as the kernel reports it. Close it when the connection ends.
//
// The kernel names the process by a number that is used again once it is gone. Peer holds on to the process itself, by a
// handle that never means another one (pidfd_open(2)), so that asking about another process with the same number fails
// instead of answering (identity §11 surprise 30). On kernels before 6.5 it holds on to the process's own directory of
// /proc and its start time instead.
type Peer struct {
	PID int
	UID uint32
	GID uint32

	proc    *os.Root
	handle  *os.File // pidfd; nil if the kernel gives none
	started string   // start time; empty if there is a handle
	closed  atomic.Bool
}

// Check reports whether the process is still the one that connected. After [Peer.Close] the error is [os.ErrClosed]. It
// takes about a microsecond.
func (p *Peer) Check() error {
	if p.closed.Load() {
		return fmt.Errorf("process %d of uid %d: %w", p.PID, p.UID, os.ErrClosed)
	}
	if p.handle != nil {
		if err := p.running(); err != nil {
			return fmt.Errorf("process %d of uid %d is gone: %w", p.PID, p.UID, err)
		}
		return nil
	}
	started, err := p.startTime()
	if err != nil {
		return fmt.Errorf("process %d of uid %d is gone: %w", p.PID, p.UID, err)
	}
	if started != p.started {
		return fmt.Errorf("process %d of uid %d is another one than connected", p.PID, p.UID)
	}
	return nil
}

// Program is the path of the program that the process runs. It fails if the program's file was removed or replaced.
func (p *Peer) Program() (string, error) {
	path, err := p.proc.Readlink("exe")
	if err != nil {
		return "", fmt.Errorf("program of process %d: %w", p.PID, err)
	}
	if strings.HasSuffix(path, " (deleted)") {
		return "", fmt.Errorf("program of process %d: its file was removed or replaced", p.PID)
	}
	return path, p.Check()
}

// Close lets go of the process.
func (p *Peer) Close() error {
	p.closed.Store(true)
	err := p.proc.Close()
	if p.handle != nil {
		err = errors.Join(err, p.handle.Close())
	}
	return err
}

// startTime is field 22 of /proc/PID/stat, in clock ticks since boot; the second field is a name that may hold anything.
func (p *Peer) startTime() (string, error) {
	stat, err := p.proc.ReadFile("stat")
	if err != nil {
		return "", err
	}
	text := string(stat)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const startTime = 22 - 3 // the first field here is the third of the line
	if len(fields) <= startTime {
		return "", errors.New("/proc/PID/stat is not as expected")
	}
	return strings.Clone(fields[startTime]), nil
}
