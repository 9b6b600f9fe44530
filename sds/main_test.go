package sds_test

import (
	"fmt"
	"net"
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// connectTo names the socket that this binary connects to when it is started as the other process.
const connectTo = "SDS_TEST_CONNECT"

func TestMain(m *testing.M) {
	if path := os.Getenv(connectTo); path != "" {
		if err := lend(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// lend connects to a socket, hands the connection to the process at the other end of file 3, and lives until standard
// input ends.
func lend(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	file, err := conn.(*net.UnixConn).File()
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(3, []byte{1}, unix.UnixRights(int(file.Fd())), nil, 0); err != nil {
		return err
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	return nil
}
