package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"
)

// Instructions are counted with what every Linux kernel has, and needs neither a performance counter nor another program:
// a child process gets ready to call a hot path, all its threads are stopped, and the one that calls is made to take one
// instruction after another (PTRACE_SINGLESTEP). With one processor, no collection of garbage and no thread of the
// runtime's that could interrupt, the same work is the same count, whatever else the machine does. Without the vector
// units that only some processors have (cpu.all=off) it is nearly the same everywhere.

// roleCall is this program as the child.
const roleCall = "call"

// environment of the child.
func steppedEnvironment() []string {
	return append(os.Environ(), "GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=off", "GODEBUG=asyncpreemptoff=1,cpu.all=off")
}

const warmingCalls = 64 // fill caches and pools before anything is counted

// measured is the function whose instructions are counted, unless a path names another.
//
//go:noinline
func measured(call func()) { call() }

// stepped is what came out for one path.
type stepped struct {
	count int            // instructions of the round with the fewest
	in    map[string]int // by function
}

// callForever is the child: it calls often enough for caches and pools to be full, says which thread is to be watched,
// waits until it is, and calls until it is killed.
func callForever(ctx context.Context, arguments []string) error {
	if len(arguments) != 2 {
		return errors.New("want the name of a hot path and how many calls to make at a time")
	}
	path, err := pathNamed(arguments[0])
	if err != nil {
		return err
	}
	calls, err := strconv.Atoi(arguments[1])
	if err != nil {
		return err
	}
	once, err := path.ready(ctx)
	if err != nil {
		return err
	}
	call := func() {
		for range calls {
			once()
		}
	}
	for range warmingCalls {
		measured(call)
	}
	runtime.GC() // the last one
	for range warmingCalls {
		measured(call)
	}
	if err := handOver(); err != nil {
		return err
	}
	runtime.Gosched() // whoever wanted to interrupt meanwhile has done so
	for {
		measured(call)
	}
}

// handOver writes the number of this thread and waits for a byte. The scheduler is not told of these system calls, so
// that it does not take the opportunity to move the goroutine to another thread.
func handOver() error {
	var line []byte
	for {
		thread := syscall.Gettid()
		line = fmt.Appendf(line[:0], "%d\n", thread)
		if thread == syscall.Gettid() {
			break
		}
	}
	buffer := uintptr(unsafe.Pointer(unsafe.SliceData(line)))
	_, _, written := syscall.RawSyscall(syscall.SYS_WRITE, 1, buffer, uintptr(len(line)))
	_, _, read := syscall.RawSyscall(syscall.SYS_READ, 0, buffer, 1)
	runtime.KeepAlive(line)
	if written != 0 || read != 0 {
		return fmt.Errorf("standard output and input: %w", errors.Join(written, read))
	}
	return nil
}
