package main

import (
	"bufio"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

const stepTimeout = 5 * time.Minute // of one path, which takes seconds unless the machine is very busy

// stepThrough runs program, which is this one, as the child that makes so many calls of the path at a time, and counts.
func stepThrough(ctx context.Context, program string, path hotPath, calls int) (s *stepped, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout) // ends the child, and by that any waiting for it
	defer cancel()
	t := &tracee{threads: map[int]bool{}}
	if t.functions, err = functionsOf(program); err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, program, roleCall, path.name, strconv.Itoa(calls)) //nolint:gosec // G204: this very program
	command.Env, command.Stderr = steppedEnvironment(), os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread() // only the thread that traces may ask for more
	defer runtime.UnlockOSThread()
	if err := command.Start(); err != nil {
		return nil, err
	}
	defer func() {
		_ = command.Process.Kill()
		t.reap()
		_ = command.Wait() // it was killed
		if err != nil {
			err = fmt.Errorf("counting the instructions of %q: %w", path.name, errors.Join(err, ctx.Err()))
		}
	}()
	t.pid = command.Process.Pid
	if _, err := fmt.Fscan(bufio.NewReader(out), &t.thread); err != nil {
		return nil, fmt.Errorf("the child did not get ready: %w", err)
	}
	if err := t.stop(); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(in, "\n"); err != nil {
		return nil, err
	}
	return t.count(path)
}

// functionsOf are the functions of a program by name, from its symbol table.
func functionsOf(program string) (map[string]elf.Symbol, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	symbols, err := f.Symbols()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: build it with go build, without -s", program, err)
	}
	functions := map[string]elf.Symbol{}
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) == elf.STT_FUNC {
			functions[s.Name] = s
		}
	}
	return functions, nil
}

// tracee is a process of which one thread is stepped through.
type tracee struct {
	pid, thread int
	threads     map[int]bool // that were attached to
	functions   map[string]elf.Symbol
}

// stop attaches to all threads, also to those that come while it does.
func (t *tracee) stop() error {
	for found := true; found; {
		found = false
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", t.pid))
		if err != nil {
			return err
		}
		for _, task := range tasks {
			id, err := strconv.Atoi(filepath.Base(task))
			if err != nil {
				return err
			}
			if t.threads[id] {
				continue
			}
			found = true
			if err := t.attach(id); err != nil {
				return err
			}
		}
	}
	if !t.threads[t.thread] {
		return fmt.Errorf("process %d has no thread %d", t.pid, t.thread)
	}
	return nil
}

func (t *tracee) attach(thread int) error {
	if err := syscall.PtraceAttach(thread); err != nil {
		return fmt.Errorf("ptrace: %w: allow programs to trace their children (kernel.yama.ptrace_scope below 3; "+
			"in a container a seccomp profile that has ptrace; not under strace or a debugger)", err)
	}
	t.threads[thread] = true
	if _, err := waitFor(thread); err != nil {
		return err
	}
	const exitKill = 0x100000 // PTRACE_O_EXITKILL: none is left behind should this process be killed
	return syscall.PtraceSetOptions(thread, exitKill)
}

// reap takes leave of the threads after the process was killed: only then can it be waited for as a whole.
func (t *tracee) reap() {
	for thread := range t.threads {
		for thread != t.pid {
			if status, err := waitFor(thread); err != nil || status.Exited() || status.Signaled() {
				break
			}
		}
	}
}

// count runs to the path's function and steps through it, for so many rounds.
func (t *tracee) count(path hotPath) (*stepped, error) {
	begin, err := t.address(path.within)
	if err != nil {
		return nil, err
	}
	over := map[uint64]bool{}
	for _, name := range path.over {
		address, err := t.address(name)
		if err != nil {
			return nil, err
		}
		over[address] = true
	}
	s := &stepped{in: map[string]int{}}
	for range path.rounds {
		if err := t.runTo(begin); err != nil {
			return nil, err
		}
		at := map[uint64]int{}
		n, err := t.throughFunction(over, at)
		if err != nil {
			return nil, err
		}
		if s.count == 0 || n < s.count {
			s.count, s.in = n, t.byFunction(at)
		}
	}
	return s, nil
}

// byFunction adds up what was counted by address.
func (t *tracee) byFunction(at map[uint64]int) map[string]int {
	in := map[string]int{}
	for name, symbol := range t.functions {
		for pc, n := range at {
			if pc >= symbol.Value && pc < symbol.Value+symbol.Size {
				in[name] += n
			}
		}
	}
	return in
}

func (t *tracee) address(function string) (uint64, error) {
	symbol, ok := t.functions[function]
	if !ok {
		return 0, fmt.Errorf("the program has no function %q: name another in hotPaths", function)
	}
	return symbol.Value, nil
}

// throughFunction steps from the first instruction of a function until it has returned. Functions to step over run at
// full speed and count nothing.
func (t *tracee) throughFunction(over map[uint64]bool, at map[uint64]int) (int, error) {
	var r syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(t.thread, &r); err != nil {
		return 0, err
	}
	end, err := t.returnAddress(&r)
	if err != nil {
		return 0, err
	}
	for n := 0; ; n++ {
		at[r.PC()]++
		if err := t.resume(syscall.PTRACE_SINGLESTEP); err != nil {
			return 0, err
		}
		if err := syscall.PtraceGetRegs(t.thread, &r); err != nil {
			return 0, err
		}
		if over[r.PC()] {
			back, err := t.returnAddress(&r)
			if err != nil {
				return 0, err
			}
			if err := errors.Join(t.runTo(back), syscall.PtraceGetRegs(t.thread, &r)); err != nil {
				return 0, err
			}
		}
		if r.PC() == end {
			return n + 1, nil
		}
	}
}

// returnAddress is where a function that has just been entered returns to.
func (t *tracee) returnAddress(r *syscall.PtraceRegs) (uint64, error) {
	var word [8]byte
	_, err := syscall.PtracePeekData(t.thread, uintptr(r.Rsp), word[:])
	return binary.LittleEndian.Uint64(word[:]), err
}

// runTo runs at full speed until the instruction at the address is the next.
func (t *tracee) runTo(address uint64) error {
	breakpoint, was := []byte{0xcc}, make([]byte, 1) // INT3
	if _, err := syscall.PtracePeekText(t.thread, uintptr(address), was); err != nil {
		return err
	}
	if _, err := syscall.PtracePokeText(t.thread, uintptr(address), breakpoint); err != nil {
		return err
	}
	if err := t.resume(syscall.PTRACE_CONT); err != nil {
		return err
	}
	if _, err := syscall.PtracePokeText(t.thread, uintptr(address), was); err != nil {
		return err
	}
	var r syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(t.thread, &r); err != nil {
		return err
	}
	if want := address + uint64(len(breakpoint)); r.PC() != want {
		return fmt.Errorf("stopped at %#x, want %#x", r.PC(), want)
	}
	r.SetPC(address)
	return syscall.PtraceSetRegs(t.thread, &r)
}

// resume lets the thread run, by PTRACE_SINGLESTEP for one instruction, until it traps. Other signals are its own.
func (t *tracee) resume(how uintptr) error {
	for deliver := syscall.Signal(0); ; {
		_, _, failed := syscall.RawSyscall6(syscall.SYS_PTRACE, how, uintptr(t.thread), 0, uintptr(deliver), 0, 0) //nolint:gosec // G115: a signal's number
		if failed != 0 {
			return failed
		}
		status, err := waitFor(t.thread)
		switch {
		case err != nil:
			return err
		case !status.Stopped():
			return fmt.Errorf("the child has ended (exit status %d, signal %v)", status.ExitStatus(), status.Signal())
		case status.StopSignal() == syscall.SIGTRAP:
			return nil
		}
		deliver = status.StopSignal()
	}
}

// waitFor waits until something happens to the thread.
func waitFor(thread int) (syscall.WaitStatus, error) {
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(thread, &status, syscall.WALL, nil)
		if !errors.Is(err, syscall.EINTR) {
			return status, err
		}
	}
}
