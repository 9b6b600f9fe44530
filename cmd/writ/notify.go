package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	notifyTimeout = time.Second
	notifyEvery   = 15 * time.Second // between looks at readiness, where no watchdog asks for more
)

// notifier tells systemd how a service is doing (sd_notify(3), the datagram protocol). Nil is a process that systemd did
// not start, or not to be told by.
type notifier struct {
	socket   string
	watchdog time.Duration // how often systemd wants to hear from the process; 0 is never
}

// newNotifier reads what systemd passes.
func newNotifier(env func(string) (string, bool)) *notifier {
	socket, ok := env("NOTIFY_SOCKET")
	if !ok || socket == "" {
		return nil
	}
	n := &notifier{socket: socket}
	usec, _ := env("WATCHDOG_USEC")
	if t, err := strconv.ParseInt(usec, 10, 64); err == nil && t > 0 {
		n.watchdog = time.Duration(t) * time.Microsecond
	}
	if pid, ok := env("WATCHDOG_PID"); ok && pid != "" && pid != strconv.Itoa(os.Getpid()) { // meant for another process
		n.watchdog = 0
	}
	return n
}

// send sends one message: assignments, one a line.
func (n *notifier) send(lines ...string) error {
	if n == nil {
		return nil
	}
	address := n.socket
	if rest, ok := strings.CutPrefix(address, "@"); ok { // Linux's abstract sockets
		address = "\x00" + rest
	}
	conn, err := net.DialTimeout("unixgram", address, notifyTimeout)
	if err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(strings.Join(lines, "\n")))
	return err
}

// notifySystemd says that the process is up, now that its listeners are open, and from then on until ctx ends whether it
// is ready and, for the watchdog, that it is alive. A process that waits for its authority is up: one that systemd would
// restart for that would only wait anew. alive may be nil.
func (c *cli) notifySystemd(ctx context.Context, log *slog.Logger, ready func(context.Context) readiness, alive func() bool) (stop func()) {
	n := newNotifier(c.env)
	if n == nil {
		return func() {}
	}
	if err := n.send("READY=1", "STATUS="+statusLine(ready(ctx))); err != nil {
		log.WarnContext(ctx, "systemd cannot be told that the service is up", "error", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.keep(ctx, ready, alive)
	}()
	return func() {
		cancel()
		<-done
		_ = n.send("STOPPING=1")
	}
}

func (n *notifier) keep(ctx context.Context, ready func(context.Context) readiness, alive func() bool) {
	every := notifyEvery
	if n.watchdog > 0 {
		every = min(every, n.watchdog/3)
	}
	ticker := time.NewTicker(max(every, 10*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		lines := []string{"STATUS=" + statusLine(ready(ctx))}
		if n.watchdog > 0 && (alive == nil || alive()) {
			lines = append(lines, "WATCHDOG=1")
		}
		_ = n.send(lines...) // a manager that is being restarted listens again soon
	}
}

// statusLine is what systemctl status shows.
func statusLine(r readiness) string {
	if r.Ready {
		return "ready"
	}
	const most = 200
	line := strings.Join(strings.Fields("not ready: "+strings.Join(r.Reasons, "; ")), " ")
	return line[:min(len(line), most)]
}
