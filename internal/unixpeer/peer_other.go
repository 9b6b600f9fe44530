//go:build !linux

package unixpeer

import (
	"errors"
	"net"
)

// Of needs Linux: elsewhere nobody connected by a Unix socket is known.
func Of(net.Conn) (*Peer, error) {
	return nil, errors.New("peer credentials: supported on Linux only")
}

func (*Peer) running() error { return errors.ErrUnsupported }
