// Package check_test measures what one Check costs a server, beside a stock grpc-go server that decodes the same
// request with Envoy's own Go types and answers an empty OK.
package check_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// roleVariable makes the test binary serve instead of test. The servers are processes of their own, so that their CPU
// time is theirs alone.
const roleVariable = "WRIT_BENCH_SERVER"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
		os.Exit(m.Run())
	case "stock", "writ":
		if err := serve(role); err != nil {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
	}
}

// documents are the policies writ decides by while it is measured: the stock server decides nothing.
const documents = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: menu, namespace: shop}
spec:
  selector: {matchLabels: {app: order}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/gateway]}}]
    to: [{operation: {methods: [GET], paths: [/api/v1/*]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [/admin*]}}]}]
`

const question = `{"attributes":{
	"source":{"address":{"socketAddress":{"address":"10.244.1.17","portValue":43210}},"principal":"spiffe://cluster.local/ns/shop/sa/gateway"},
	"destination":{"address":{"socketAddress":{"address":"10.244.2.5","portValue":8080}},"principal":"spiffe://cluster.local/ns/shop/sa/order"},
	"request":{"time":"2026-11-21T06:29:28.485212Z","http":{"id":"17785514492460819318","method":"GET","path":"/api/v1/menu?size=20&page=3",
	"host":"shop.example.com","scheme":"https","protocol":"HTTP/2","headers":{
	":authority":"shop.example.com",":method":"GET",":path":"/api/v1/menu?size=20&page=3",":scheme":"https",
	"accept":"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8","accept-encoding":"gzip, deflate, br",
	"accept-language":"en-US,en;q=0.5","cookie":"session=0123456789abcdef0123456789abcdef; theme=dark",
	"user-agent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
	"x-forwarded-for":"203.0.113.7,10.244.1.17","x-forwarded-proto":"https","x-request-id":"f8829f87-699e-4949-b1db-d78ccc345b44"}}},
	"contextExtensions":{"writ.namespace":"shop","writ.labels":"app=order"},"metadataContext":{},"routeMetadataContext":{},
	"tlsSession":{"sni":"shop.example.com"}}}`

// serve listens, prints its address, and then answers each line of its standard input with the CPU time it has used.
func serve(role string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	if role == "stock" {
		server := grpc.NewServer()
		authv3.RegisterAuthorizationServer(server, stock{})
		go func() { served <- server.Serve(listener) }()
		defer server.Stop()
	} else {
		store := policy.NewStore(policy.Mesh{})
		store.Update(policy.Decode("bench.yaml", []byte(documents)))
		server, err := extauthz.New(extauthz.Config{Snapshot: store.Load, Engine: &authz.Engine{}})
		if err != nil {
			return err
		}
		go func() { served <- server.Serve(ctx, listener) }()
	}
	fmt.Println(listener.Addr())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var used syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
			return err
		}
		fmt.Println(used.Utime.Nano() + used.Stime.Nano())
	}
	return nil
}

// stock is the least a server written with Envoy's Go types can do.
type stock struct {
	authv3.UnimplementedAuthorizationServer
}

func (stock) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{
		Status:       &status.Status{Code: 0},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
	}, nil
}

// peer is one server process and the connections to it: like Envoy, one from each worker.
type peer struct {
	conns []*grpc.ClientConn
	cpu   func(*testing.B) time.Duration // CPU time the process has used
}

const workers = 2

func startPeer(b *testing.B, role string) *peer {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	command := exec.CommandContext(context.Background(), self) // ends with its standard input
	command.Env = append(os.Environ(), roleVariable+"="+role)
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	out := bufio.NewReader(stdout)
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	p := &peer{cpu: func(b *testing.B) time.Duration { return askCPU(b, in, out) }}
	b.Cleanup(func() {
		p.close()
		_ = in.Close() // ends the process
		if err := command.Wait(); err != nil {
			b.Errorf("%s: %v", role, err)
		}
	})
	address, err := out.ReadString('\n')
	if err != nil {
		b.Fatalf("%s did not start: %v", role, err)
	}
	p.connect(b, strings.TrimSpace(address))
	return p
}

// startServe runs `writ serve` as it is built.
func startServe(b *testing.B, config string) *peer {
	b.Helper()
	binary := filepath.Join(b.TempDir(), "writ")
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", binary, "github.com/writ-auth/writ/cmd/writ").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	command := exec.CommandContext(context.Background(), binary, "serve", "-c", config)
	stderr, err := command.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	p := &peer{cpu: func(b *testing.B) time.Duration { return threadsCPU(b, command.Process.Pid) }}
	b.Cleanup(func() {
		p.close()
		_ = command.Process.Signal(os.Interrupt)
		if err := command.Wait(); err != nil {
			b.Errorf("writ serve: %v", err)
		}
	})
	address, loaded := "", false
	lines := bufio.NewScanner(stderr)
	for (address == "" || !loaded) && lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), "msg=listening for=authz address="); ok {
			address, _, _ = strings.Cut(rest, " ")
		}
		loaded = loaded || strings.Contains(lines.Text(), `msg="documents loaded"`)
	}
	if !loaded {
		b.Fatal("writ serve did not start")
	}
	go func() { // nobody reads the rest
		for lines.Scan() {
		}
	}()
	p.connect(b, address)
	return p
}

func (p *peer) connect(b *testing.B, address string) {
	b.Helper()
	for range workers {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
		if err != nil {
			b.Fatal(err)
		}
		p.conns = append(p.conns, conn)
	}
}

func (p *peer) close() {
	for _, c := range p.conns {
		_ = c.Close()
	}
}

// askCPU has a server of ours tell.
func askCPU(b *testing.B, in io.Writer, out *bufio.Reader) time.Duration {
	b.Helper()
	if _, err := io.WriteString(in, "\n"); err != nil {
		b.Fatal(err)
	}
	line, err := out.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(ns)
}

// threadsCPU adds up what the scheduler has given each thread of a process, in nanoseconds.
func threadsCPU(b *testing.B, pid int) time.Duration {
	b.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		b.Fatalf("process %d has no threads to read: %v", pid, err)
	}
	var total int64
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		total += ns
	}
	return time.Duration(total)
}

// raw is a client codec that sends bytes made beforehand, so that the client stays out of the way.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*int) = data.Len()
	return nil
}

// round sends n requests, so many at a time on each connection, and returns the CPU time of one in the server.
func (p *peer) round(b *testing.B, request []byte, n, concurrency int) time.Duration {
	b.Helper()
	before := p.cpu(b)
	var wait sync.WaitGroup
	for _, conn := range p.conns {
		for range concurrency {
			wait.Go(func() {
				for range n / workers / concurrency {
					var size int
					if err := conn.Invoke(b.Context(), "/envoy.service.auth.v3.Authorization/Check", request, &size); err != nil || size == 0 {
						b.Errorf("an answer of %d bytes, error %v", size, err)
						return
					}
				}
			})
		}
	}
	wait.Wait()
	return (p.cpu(b) - before) / time.Duration(n)
}

// BenchmarkCheckRPC reports the CPU time of one Check in each server process and their ratio, measured in turns.
func BenchmarkCheckRPC(b *testing.B) {
	request, err := extauthz.ParseJSON([]byte(question))
	if err != nil {
		b.Fatal(err)
	}
	for _, concurrency := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("streams=%d", concurrency), func(b *testing.B) {
			pair(b, startPeer(b, "writ"), startPeer(b, "stock"), request, concurrency)
		})
	}
}

func median[T int64 | float64 | time.Duration](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}
