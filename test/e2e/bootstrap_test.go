package e2e_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

// TestBootstrapsAreValid has Envoy itself read every bootstrap that the golden tests of internal/bootstrap hold.
func TestBootstrapsAreValid(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, name := range []string{"bank", "partners", "shop", "staff"} {
		if err := os.Mkdir(b.file(name), 0o755); err != nil {
			t.Fatal(err)
		}
		b.certificate(t, name+"/tls", testkit.Names{DNS: []string{name + ".example.com"}})
		for from, to := range map[string]string{name + "/tls.pem": "tls.crt", "ca.pem": "ca.crt"} {
			data, err := os.ReadFile(b.file(from))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(b.file(name+"/"+to), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Rename(b.file(name+"/tls.pem"), b.file(name+"/tls.key")); err != nil {
			t.Fatal(err)
		}
	}
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "internal/bootstrap/testdata/*.golden.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	replace := strings.NewReplacer("/etc/writ/credentials/system.pem", b.file("ca.pem"), "/etc/writ/credentials", b.dir)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		copied := b.file(filepath.Base(file))
		if err := os.WriteFile(copied, []byte(replace.Replace(string(data))), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		out, err := exec.CommandContext(ctx, b.tools.envoy, "--mode", "validate", "-c", copied, "-l", "warning").CombinedOutput()
		cancel()
		if err != nil || strings.Contains(string(out), "deprecated") {
			t.Errorf("%s: %v\n%s", filepath.Base(file), err, out)
		}
	}
}

// Ports of payment, each with a mode of its own.
const (
	portStrict     = 8080
	portPermissive = 8081
	portDisable    = 8082
	portTCP        = 5432
	portTCPOpen    = 5433

	bootstrapDocuments = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: coffee-shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: payment, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: payment}}
  portLevelMtls: {8081: {mode: PERMISSIVE}, 8082: {mode: DISABLE}, 5433: {mode: PERMISSIVE}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: payment, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: payment}}
  rules:
  - {from: [{source: {principals: [cluster.local/ns/coffee-shop/sa/order]}}], to: [{operation: {paths: [/payments]}}]}
  - {to: [{operation: {paths: [/open]}}]}
  - {from: [{source: {principals: [cluster.local/ns/coffee-shop/sa/order]}}], to: [{operation: {ports: ["5432"]}}]}
  - {to: [{operation: {ports: ["5433"]}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payment, namespace: coffee-shop}
spec: {host: payment, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payment-plain, namespace: coffee-shop}
spec: {host: payment-plain, trafficPolicy: {tls: {mode: DISABLE}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payment-strange, namespace: coffee-shop}
spec: {host: payment-strange, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
`
)

// shopOfTwo is order and payment with the Envoys that writ envoy bootstrap prints for them.
type shopOfTwo struct {
	*mesh
	host           string // where payment is, and where order finds what it calls
	order, payment *testkit.Envoy
}

// ownLoopback is an address of this process alone, as far as loopback has them: the ports are those of documents, and a
// free port of 127.0.0.1 would not be.
func ownLoopback() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 64+pid>>15&63, pid>>8&127+1, pid&255)
}

func newShopOfTwo(t *testing.T) *shopOfTwo {
	t.Helper()
	s := &shopOfTwo{mesh: newMesh(t), host: ownLoopback()}
	s.policy(t, "callers.yaml", bootstrapDocuments)
	address := freeAddress(t)
	main := s.configure("main", address, "state: ./state", "")
	main.serve()
	s.write("root.pem", main.do("ca", "bundle"))
	for name, id := range map[string]string{"order": orderID, "payment": paymentID} {
		s.agent(name, main, []string{address}, []string{id}, ours(id)).ready()
	}
	_, app, _ := strings.Cut(service(t), ":")
	_, tcp, _ := strings.Cut(database(t), ":")
	s.payment = s.envoyOf("payment",
		"--inbound", fmt.Sprintf("%d:%s", portStrict, app), "--inbound", fmt.Sprintf("%d:%s", portPermissive, app),
		"--inbound", fmt.Sprintf("%d:%s", portDisable, app), "--inbound", fmt.Sprintf("%d:%s:tcp", portTCP, tcp),
		"--inbound", fmt.Sprintf("%d:%s:tcp", portTCPOpen, tcp))
	at := func(host string, port, listen int, more string) string {
		return fmt.Sprintf("%s:%d,address=%s:%d,listen=%d%s", host, port, s.host, port, listen, more)
	}
	const payment, strange = ",identity=coffee-shop/payment", ",identity=coffee-shop/strange"
	s.order = s.envoyOf("order",
		"--upstream", at("payment", portStrict, 18080, payment), "--upstream", at("payment", portPermissive, 18081, payment+",protocol=http2"),
		"--upstream", at("payment", portDisable, 18082, payment), "--upstream", at("payment", portTCP, 15432, payment+",protocol=tcp"),
		"--upstream", at("payment", portTCPOpen, 15433, payment+",protocol=tcp"),
		"--upstream", at("payment-plain", portStrict, 28080, ""), "--upstream", at("payment-plain", portPermissive, 28081, ""),
		"--upstream", at("payment-plain", portDisable, 28082, ""), "--upstream", at("payment-plain", portTCP, 25432, ",protocol=tcp"),
		"--upstream", at("payment-strange", portStrict, 38080, strange),
		"--upstream", at("payment-auto.coffee-shop.example", portStrict, 48080, payment))
	return s
}

// envoyOf prints the bootstrap of a workload and runs Envoy by it. Envoy of --check has read it as it is; what is run has
// other addresses and more patience, for a busy machine is not what is tested.
func (s *shopOfTwo) envoyOf(app string, args ...string) *testkit.Envoy {
	s.t.Helper()
	text := unit{s.mesh, "main"}.do(append([]string{
		"envoy", "bootstrap", "--to", "coffee-shop/" + app, "--labels", "app=" + app, "--service-account", app, "--bind", s.host,
		"--sds", "unix://" + s.file(app+".sock"), "--envoy-admin", "", "--check", "--envoy", s.tools.envoy,
	}, args...)...)
	for _, e := range []edit{
		{" timeout: 0.25s", " timeout: 20s"}, {"max_interval: 0.1s", "max_interval: 10s"},
	} {
		text = strings.ReplaceAll(text, e.from, e.to)
	}
	for _, port := range []int{18080, 18081, 18082, 15432, 15433, 28080, 28081, 28082, 25432, 38080, 48080} { // outbound
		text = strings.ReplaceAll(text, fmt.Sprintf("{address: 127.0.0.1, port_value: %d}", port), fmt.Sprintf("{address: %s, port_value: 0}", s.host))
	}
	envoy, err := s.tryProxy(bounded(s.t), app, s.tools.envoy, text)
	if err != nil {
		s.t.Fatal(err)
	}
	return envoy
}

// call sends a request to address and returns the status and what the application saw, or 0 when there is no answer.
func (s *shopOfTwo) call(t *testing.T, address, path string) (int, testkit.Echo) {
	t.Helper()
	request, err := http.NewRequestWithContext(bounded(t), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Forwarded-Client-Cert", "URI="+strangeID)
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return 0, testkit.Echo{}
	}
	defer response.Body.Close()
	var seen testkit.Echo
	if response.StatusCode == http.StatusOK {
		if err := json.NewDecoder(response.Body).Decode(&seen); err != nil {
			t.Error(err)
		}
	}
	return response.StatusCode, seen
}

// TestBootstrap runs the printed bootstraps against a real authority and its agents: what PeerAuthentication and
// DestinationRule say of each port is what two Envoys do.
func TestBootstrap(t *testing.T) {
	t.Parallel()
	s := newShopOfTwo(t)
	direct := func(port int) string { return net.JoinHostPort(s.host, fmt.Sprint(port)) }
	by := func(listen int) string { return s.order.Listener(fmt.Sprintf("outbound_%d", listen)) }
	const order, nobody = orderID, ""
	for _, row := range []struct {
		name, address, path string
		status              int
		from                string // whom the application is told
	}{
		{"ISTIO_MUTUAL to STRICT", by(18080), "/payments", 200, order},
		{"ISTIO_MUTUAL to STRICT, what no rule allows", by(18080), "/admin", 403, nobody},
		{"ISTIO_MUTUAL to PERMISSIVE, HTTP/2", by(18081), "/payments", 200, order},
		{"ISTIO_MUTUAL to DISABLE", by(18082), "/open", 503, nobody},
		{"automatic, identity known, to STRICT", by(48080), "/payments", 200, order},
		{"ISTIO_MUTUAL, the server is somebody else", by(38080), "/payments", 503, nobody},
		{"DISABLE to STRICT", by(28080), "/open", 503, nobody},
		{"DISABLE to PERMISSIVE", by(28081), "/open", 200, nobody},
		{"DISABLE to PERMISSIVE, where a principal is needed", by(28081), "/payments", 403, nobody},
		{"DISABLE to DISABLE", by(28082), "/open", 200, nobody},
		{"plaintext to STRICT", direct(portStrict), "/open", 0, nobody},
		{"plaintext to PERMISSIVE", direct(portPermissive), "/open", 200, nobody},
		{"plaintext to PERMISSIVE, where a principal is needed", direct(portPermissive), "/payments", 403, nobody},
		{"plaintext to DISABLE", direct(portDisable), "/open", 200, nobody},
		{"plaintext to DISABLE, where a principal is needed", direct(portDisable), "/payments", 403, nobody},
	} {
		t.Run(row.name, func(t *testing.T) {
			status, seen := s.call(t, row.address, row.path)
			if status != row.status {
				t.Fatalf("status %d, want %d\n%s", status, row.status, s.payment.Output.Tail(3))
			}
			told := seen.Headers.Get("X-Forwarded-Client-Cert")
			if want := "URI=" + row.from; status == 200 && (row.from == nobody && told != "" || row.from != nobody && !strings.Contains(told, want)) {
				t.Errorf("the application is told %q, want %q", told, row.from)
			}
		})
	}
	t.Run("TCP", func(t *testing.T) { s.tcp(t, by, direct) })
	t.Run("TLS without a certificate", func(t *testing.T) { s.bareTLS(t, direct) })
}

// tcp: the database greets whom writ lets through.
func (s *shopOfTwo) tcp(t *testing.T, by, direct func(int) string) {
	for _, row := range []struct {
		name, address string
		want          string
	}{
		{"ISTIO_MUTUAL to STRICT", by(15432), "ready"},
		{"ISTIO_MUTUAL to PERMISSIVE", by(15433), "ready"},
		{"DISABLE to STRICT", by(25432), ""},
		{"plaintext to STRICT", direct(portTCP), ""},
		{"plaintext to PERMISSIVE", direct(portTCPOpen), "ready"},
	} {
		if got := greeting(t, row.address); got != row.want {
			t.Errorf("%s: %q, want %q\n%s", row.name, got, row.want, s.payment.Output.Tail(3))
		}
	}
}

// greeting sends a line, longer than the five bytes by which TLS is known, and returns the first line that comes back, or "" when the connection ends.
func greeting(t *testing.T, address string) string {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(bounded(t), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("select 1;\n")); err != nil {
		return ""
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s neither answers nor ends", address)
	}
	return strings.TrimSpace(line)
}

// bareTLS: a client of TLS that is not of the mesh gets nowhere on a port that is declared HTTP.
func (s *shopOfTwo) bareTLS(t *testing.T, direct func(int) string) {
	for _, row := range []struct {
		port int
		alpn []string
	}{{portStrict, nil}, {portStrict, []string{"istio"}}, {portPermissive, nil}, {portPermissive, []string{"istio"}}, {portDisable, nil}} {
		dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: row.alpn}}
		conn, err := dialer.DialContext(bounded(t), "tcp", direct(row.port))
		if err != nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, "GET /open HTTP/1.1\r\nHost: x\r\n\r\n")
		if answer, _ := bufio.NewReader(conn).ReadString('\n'); answer != "" { // TLS 1.3 refuses after the handshake
			t.Errorf("port %d, ALPN %q: answers %q", row.port, row.alpn, answer)
		}
		_ = conn.Close()
	}
}
