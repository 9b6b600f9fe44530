package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestNotifySystemd: the service manager hears that the process is up, how it is, that it lives, and that it ends.
func TestNotifySystemd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	hear := func() string {
		t.Helper()
		if err := manager.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 4096)
		n, err := manager.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
	environment := map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "300000", "WATCHDOG_PID": strconv.Itoa(os.Getpid())}
	c := &cli{env: func(k string) (string, bool) { v, ok := environment[k]; return v, ok }}
	var ready, alive atomic.Bool
	alive.Store(true)
	stop := c.notifySystemd(t.Context(), slog.New(slog.DiscardHandler), func(context.Context) readiness {
		return readiness{Ready: ready.Load(), Reasons: []string{"a\nreason"}}
	}, alive.Load)
	if got := hear(); got != "READY=1\nSTATUS=not ready: a reason" {
		t.Errorf("first %q", got)
	}
	if got := hear(); got != "STATUS=not ready: a reason\nWATCHDOG=1" {
		t.Errorf("then %q", got)
	}
	ready.Store(true)
	alive.Store(false)
	for got := hear(); got != "STATUS=ready"; got = hear() {
		if !strings.Contains(got, "STATUS=") {
			t.Fatalf("heard %q", got)
		}
	}
	stop()
	for got := hear(); got != "STOPPING=1"; got = hear() {
		if strings.Contains(got, "WATCHDOG") {
			t.Errorf("heard %q of a process that is stuck", got)
		}
	}
}

// TestNotifyNobody: without a service manager nothing is said, and a watchdog of another process is not ours.
func TestNotifyNobody(t *testing.T) {
	t.Parallel()
	none := &cli{env: noEnv}
	none.notifySystemd(t.Context(), slog.New(slog.DiscardHandler), nil, nil)()
	environment := map[string]string{"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
	if n := newNotifier(func(k string) (string, bool) { v, ok := environment[k]; return v, ok }); n.watchdog != 0 {
		t.Errorf("watchdog %v", n.watchdog)
	}
	if err := (*notifier)(nil).send("READY=1"); err != nil {
		t.Error(err)
	}
	if err := (&notifier{socket: filepath.Join(t.TempDir(), "absent")}).send("READY=1"); err == nil {
		t.Error("a manager that is not there was told")
	}
}
