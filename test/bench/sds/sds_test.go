// Package sds_test measures writ's SDS server beside go-control-plane's LinearCache server: the same secrets, the same
// clients, each server in a process of its own, both in one run.
package sds_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

// serverVariable makes this binary writ's server: its value is the socket.
const serverVariable = "WRIT_BENCH_SDS_SERVER"

func TestMain(m *testing.M) {
	if socket := os.Getenv(serverVariable); socket != "" {
		if err := serve(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const (
	streams = 1000
	pushes  = 30
	target  = "spiffe://cluster.local/ns/shop/sa/payment"
)

// BenchmarkStreams opens 1,000 streams on 1,000 connections to each server and pushes new certificates to all of them.
// It reports resident memory and CPU time of the servers' processes for one stream, and their ratios. Node is what clients
// say of themselves in their first request: nothing, or as much as Envoy does.
func BenchmarkStreams(b *testing.B) {
	linear := buildLinear(b)
	for _, node := range []*corev3.Node{{Id: "sidecar"}, envoyNode()} {
		b.Run(fmt.Sprintf("node=%dB", proto.Size(node)), func(b *testing.B) {
			for b.Loop() {
				ours := startWrit(b)
				ours.measure(b, node)
				ours.stop(b)
				theirs := startLinear(b, linear)
				theirs.measure(b, node)
				theirs.stop(b)
				b.ReportMetric(ours.memory, "writ-KiB/stream")
				b.ReportMetric(theirs.memory, "linear-KiB/stream")
				b.ReportMetric(ours.memory/theirs.memory, "memory-ratio")
				b.ReportMetric(ours.push, "writ-cpu-µs/push")
				b.ReportMetric(theirs.push, "linear-cpu-µs/push")
				b.ReportMetric(ours.push/theirs.push, "cpu-ratio")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// server is one of the two, in a process of its own.
type server struct {
	name, socket string
	command      *exec.Cmd
	in           interface {
		WriteString(string) (int, error)
		Close() error
	}

	memory float64 // KiB for a stream
	push   float64 // µs of CPU time for one push to one stream
}

// measure opens the streams, pushes, and fills in the results.
func (s *server) measure(b *testing.B, node *corev3.Node) {
	b.Helper()
	before := residentKiB(b, s.command.Process.Pid)
	clients := connect(b, s.socket, node, streams)
	defer clients.close()
	clients.wait(b, 1)
	s.next(b, clients, 2) // the first push warms up
	cpu := cpuTime(b, s.command.Process.Pid)
	for n := range pushes {
		s.next(b, clients, 3+n)
	}
	s.push = float64((cpuTime(b, s.command.Process.Pid) - cpu).Microseconds()) / pushes / streams
	s.memory = float64(residentKiB(b, s.command.Process.Pid)-before) / streams
	b.Logf("%s: %.1f KiB a stream, %.1f µs a push", s.name, s.memory, s.push)
}

func (s *server) next(b *testing.B, c *clients, version int) {
	b.Helper()
	if _, err := s.in.WriteString("next\n"); err != nil {
		b.Fatal(err)
	}
	c.wait(b, version)
	settle(b, s.command.Process.Pid)
}

func (s *server) stop(b *testing.B) {
	b.Helper()
	if err := s.in.Close(); err != nil {
		b.Error(err)
	}
	if err := s.command.Wait(); err != nil {
		b.Errorf("%s: %v", s.name, err)
	}
}

func startWrit(b *testing.B) *server {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	socket := filepath.Join(b.TempDir(), "writ.sock")
	command := exec.CommandContext(context.Background(), self)
	command.Env = append(os.Environ(), serverVariable+"="+socket)
	return startServer(b, "writ", socket, command)
}

func startLinear(b *testing.B, binary string) *server {
	b.Helper()
	dir := b.TempDir()
	arguments := []string{filepath.Join(dir, "linear.sock")}
	for n, i := range identities(b) {
		file := filepath.Join(dir, strconv.Itoa(n))
		if err := os.WriteFile(file, secretOf(b, i), 0o600); err != nil {
			b.Fatal(err)
		}
		arguments = append(arguments, file)
	}
	return startServer(b, "linear", arguments[0], exec.CommandContext(context.Background(), binary, arguments...))
}

func startServer(b *testing.B, name, socket string, command *exec.Cmd) *server {
	b.Helper()
	command.Stderr = os.Stderr
	stdin, write, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	command.Stdin = stdin
	out, err := command.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	_ = stdin.Close() // the child has it
	b.Cleanup(func() { _ = write.Close() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		b.Fatalf("%s said %q: %v", name, line, err)
	}
	return &server{name: name, socket: socket, command: command, in: write}
}

// buildLinear builds the peer, which is a module of its own.
func buildLinear(b *testing.B) string {
	b.Helper()
	binary := filepath.Join(b.TempDir(), "linear")
	command := exec.CommandContext(b.Context(), "go", "build", "-o", binary, ".")
	command.Dir = "linear"
	if out, err := command.CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// anyone may have the identity.
type anyone struct{ id spiffeid.ID }

func (a anyone) Entitled(*sds.Caller) (sds.Entitlement, error) {
	return sds.Entitlement{Identities: []spiffeid.ID{a.id}}, nil
}

func (anyone) Changed() <-chan struct{} { return nil }

// serve is writ's server as a process: it does what the peer does.
func serve(socket string) error {
	domain, err := spiffeid.TrustDomain("cluster.local")
	if err != nil {
		return err
	}
	list, err := makeIdentities()
	if err != nil {
		return err
	}
	vault := &sds.Vault{}
	if err := vault.SetIdentity(list[0]); err != nil {
		return err
	}
	s, err := sds.New(sds.Config{
		Vault: vault, Authorizer: anyone{list[0].ID}, TrustDomain: domain, MaxConnections: 2 * streams, MaxPerCaller: 2 * streams,
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for n := 1; lines.Scan(); n++ {
		if err := vault.SetIdentity(list[n%len(list)]); err != nil {
			return err
		}
	}
	stop()
	return <-served
}

// residentKiB is a process's resident memory.
func residentKiB(b *testing.B, pid int) int {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// cpuTime is the time that all threads of a process have run.
func cpuTime(b *testing.B, pid int) (total time.Duration) {
	b.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		b.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			b.Fatal(err)
		}
		ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		total += time.Duration(ns)
	}
	return total
}

// settle waits until a process does nothing any more.
func settle(b *testing.B, pid int) {
	b.Helper()
	for last := cpuTime(b, pid); ; {
		<-time.After(20 * time.Millisecond)
		now := cpuTime(b, pid)
		if now-last < time.Millisecond/2 {
			return
		}
		last = now
	}
}
