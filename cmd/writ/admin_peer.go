package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"

	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/internal/unixpeer"
)

// adminListener lets in only processes of root and of the authority's own user. The socket's mode says the same, but a
// mode is changed more easily than noticed.
type adminListener struct {
	net.Listener
	log *slog.Logger
}

// Accept waits for the next process that may connect.
func (l adminListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		by, err := operatorOf(conn)
		if err == nil {
			return operatorConn{conn, by}, nil
		}
		l.log.Warn("a connection to the admin socket was refused", "error", err)
		_ = conn.Close()
	}
}

// operatorOf names the process at the other end, if it may connect. Where the kernel does not tell (elsewhere than on
// Linux) the socket's mode has to do.
func operatorOf(conn net.Conn) (string, error) {
	if runtime.GOOS != "linux" {
		return string(attest.MethodPeer) + ":unknown", nil
	}
	peer, err := unixpeer.Of(conn)
	if err != nil {
		return "", err
	}
	defer func() { _ = peer.Close() }()
	if !mayOperate(peer.UID, os.Getuid()) {
		return "", fmt.Errorf("process %d is of uid %d: want root or uid %d", peer.PID, peer.UID, os.Getuid())
	}
	return caserver.Operator(peer), nil
}

// mayOperate reports whether a process of uid may operate an authority that runs as own.
func mayOperate(uid uint32, own int) bool { return uid == 0 || int(uid) == own }

// operatorConn is a connection of a known process.
type operatorConn struct {
	net.Conn
	by string
}

type operatorKey struct{}

// connOperator puts the operator of a connection where handlers find it; it is an http.Server's ConnContext.
func connOperator(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(operatorConn); ok {
		return withOperator(ctx, c.by)
	}
	return ctx
}

func withOperator(ctx context.Context, by string) context.Context {
	return context.WithValue(ctx, operatorKey{}, by)
}

// operator is who asks, as audit records name it; empty if nobody is known to.
func operator(ctx context.Context) string {
	by, _ := ctx.Value(operatorKey{}).(string)
	return by
}
