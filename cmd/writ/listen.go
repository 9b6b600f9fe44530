package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"
)

// listen opens a listener on addr. A Unix socket gets its mode before anyone can connect to it.
func listen(addr address, mode fileMode) (net.Listener, error) {
	if addr.network == "unix" {
		return listenUnix(addr.address, os.FileMode(mode))
	}
	l, err := net.Listen(addr.network, addr.address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return l, nil
}

// listenUnix makes the socket under another name, sets its mode, and moves it into place. A socket that a dead process
// left behind is replaced; one that answers, or a file that is no socket, is not.
func listenUnix(path string, mode os.FileMode) (net.Listener, error) {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("listen on unix:%s: %w", path, err)
	case info.Mode()&fs.ModeSocket == 0:
		return nil, fmt.Errorf("listen on unix:%s: there is a file of that name and it is no socket: remove it, or use another path", path)
	default:
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("listen on unix:%s: another process listens there: stop it, or use another path", path)
		}
	}
	l, err := bindUnix(path, path+"~", mode)
	if err != nil {
		return nil, fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	return l, nil
}

func bindUnix(path, scratch string, mode os.FileMode) (net.Listener, error) {
	if err := os.Remove(scratch); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: scratch, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(scratch, mode), os.Rename(scratch, path)); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(scratch))
	}
	made, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &unixListener{UnixListener: l, path: path, made: made}, nil
}

// unixListener removes its socket when it is closed, unless another process has put its own there meanwhile.
type unixListener struct {
	*net.UnixListener
	path string
	made os.FileInfo
	once sync.Once
}

// Addr is the address clients connect to.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close stops listening and removes the socket.
func (l *unixListener) Close() error {
	l.once.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
			_ = os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}
