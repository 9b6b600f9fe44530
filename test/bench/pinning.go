package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// apart gives a server one processor and this program the others, until release: or the kernel lets them wait for each other
// for milliseconds at a time while a processor has nothing to do. It says why if the machine has only one.
func apart(pid int) (release func() error, err error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return nil, fmt.Errorf("which processors there are: %w", err)
	}
	if all.Count() < 2 {
		return nil, errors.New("the machine has one processor: the server and the asking side need one each")
	}
	var first unix.CPUSet
	others := all
	for cpu := 0; first.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			first.Set(cpu)
			others.Clear(cpu)
		}
	}
	release = func() error { return pin(os.Getpid(), &all) }
	return release, errors.Join(pin(pid, &first), pin(os.Getpid(), &others))
}

// pin keeps all threads of a process, and those that they will start, on some processors.
func pin(pid int, to *unix.CPUSet) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return err
	}
	for _, dir := range threads {
		thread, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(thread, to); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("keep thread %d of process %d on one processor: %w", thread, pid, err)
		}
	}
	return nil
}
