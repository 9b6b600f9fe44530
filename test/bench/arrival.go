package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// arrivals reads a connection, and knows when the kernel received what was read last: how long it took this program to get
// to it is nothing that the other side can help.
type arrivals struct {
	conn    syscall.RawConn
	last    time.Time
	polling bool // return errNothing instead of waiting
	oob     [64]byte
}

// errNothing is that of a read when nothing is there to be read.
var errNothing = errors.New("nothing has arrived")

// timespecBytes is the size of the kernel's struct timespec, of which a time stamp has three.
const timespecBytes = 16

func newArrivals(c net.Conn) (*arrivals, error) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var refused error
	err = raw.Control(func(fd uintptr) {
		refused = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPING, unix.SOF_TIMESTAMPING_RX_SOFTWARE|unix.SOF_TIMESTAMPING_SOFTWARE)
	})
	if err := errors.Join(err, refused); err != nil {
		return nil, fmt.Errorf("have the kernel say when answers arrive: %w", err)
	}
	return &arrivals{conn: raw}, nil
}

// poll makes reads wait or not, and returns the socket to wait for otherwise.
func (a *arrivals) poll(polling bool) (socket int, err error) {
	a.polling = polling
	err = a.conn.Control(func(fd uintptr) { socket = int(fd) })
	return socket, err
}

// Read implements [io.Reader].
func (a *arrivals) Read(p []byte) (n int, err error) {
	var oobn int
	waited := a.conn.Read(func(fd uintptr) bool {
		for {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), p, a.oob[:], 0)
			if !errors.Is(err, unix.EINTR) {
				return a.polling || !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	switch {
	case waited != nil:
		return 0, waited
	case errors.Is(err, unix.EAGAIN):
		return 0, errNothing
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	a.last = time.Now()
	messages, err := unix.ParseSocketControlMessage(a.oob[:oobn])
	if err != nil {
		return n, err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPING && len(m.Data) >= timespecBytes {
			seconds, nanoseconds := binary.NativeEndian.Uint64(m.Data), binary.NativeEndian.Uint64(m.Data[8:])
			a.last = time.Unix(int64(seconds), int64(nanoseconds)) //nolint:gosec // G115: a time stamp of the kernel's
		}
	}
	return n, nil
}
