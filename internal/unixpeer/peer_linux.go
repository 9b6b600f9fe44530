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
	if p.started, err = p.startTime(); err == nil {
		err = stillThere(fd)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("process %d: %w", p.PID, err), proc.Close())
	}
	return p, nil
}

// stillThere asks by a handle of the process, not by its number, whether it runs: if so, the directory that was opened by
// its number is its own. Kernels before 6.5 have no such handle, and the directory is taken as it is.
func stillThere(fd int) error {
	handle, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return nil
	case err != nil:
		return err
	}
	defer unix.Close(handle)
	ended, err := unix.Poll([]unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}, 0)
	if err != nil {
		return err
	}
	if ended > 0 {
		return errors.New("it has ended")
	}
	return nil
}
