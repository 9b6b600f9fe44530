package unixpeer

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Of asks the kernel who connected to a Unix socket (SO_PEERCRED, unix(7)).
func Of(conn net.Conn) (*Peer, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("a %T has no peer credentials: want a Unix socket", conn)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("peer credentials: %w", err)
	}
	var p *Peer
	var failed error
	if err := raw.Control(func(fd uintptr) { p, failed = of(int(fd)) }); err != nil {
		failed = err
	}
	if failed != nil {
		return nil, fmt.Errorf("peer credentials: %w", failed)
	}
	return p, nil
}

func of(fd int) (*Peer, error) {
	credentials, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, err
	}
	if credentials.Pid <= 0 {
		return nil, errors.New("the peer is in a process namespace that is not visible from here")
	}
	proc, err := os.OpenRoot("/proc/" + strconv.Itoa(int(credentials.Pid)))
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", credentials.Pid, err)
	}
	p := &Peer{PID: int(credentials.Pid), UID: credentials.Uid, GID: credentials.Gid, proc: proc}
	if p.handle, err = handleOf(fd); err == nil && p.handle == nil {
		p.started, err = p.startTime()
	}
	if err == nil {
		// It runs: so the directory that was opened by its number is its own.
		err = p.Check()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("process %d: %w", p.PID, err), p.Close())
	}
	return p, nil
}

// handleOf asks for a handle of the process at the other end. Kernels before 6.5 have none.
func handleOf(fd int) (*os.File, error) {
	handle, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return os.NewFile(uintptr(handle), "pidfd"), nil
}

// running asks by the handle, not by the number, whether the process runs: its handle is readable once it has ended.
func (p *Peer) running() error {
	raw, err := p.handle.SyscallConn()
	if err != nil {
		return err
	}
	var ended int
	var failed error
	err = raw.Control(func(fd uintptr) {
		for {
			if ended, failed = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); !errors.Is(failed, unix.EINTR) {
				return
			}
		}
	})
	switch {
	case err != nil || failed != nil:
		return errors.Join(err, failed)
	case ended > 0:
		return errors.New("it has ended")
	}
	return nil
}
