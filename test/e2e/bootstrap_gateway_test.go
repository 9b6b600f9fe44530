package e2e_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/writ-auth/writ/internal/testkit"
)

const gatewayDocuments = `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: coffee-shop}
spec:
  selector: {app: front}
  servers:
  - {port: {number: 9080, protocol: HTTP, name: http}, hosts: [open.example]}
  - {port: {number: 9080, protocol: HTTP, name: moved}, hosts: [simple.example], tls: {httpsRedirect: true}}
  - {port: {number: 9443, protocol: HTTPS, name: simple}, hosts: [simple.example], tls: {mode: SIMPLE, credentialName: front}}
  - {port: {number: 9443, protocol: HTTPS, name: mutual}, hosts: [mutual.example], tls: {mode: MUTUAL, credentialName: front}}
  - {port: {number: 9443, protocol: HTTPS, name: optional}, hosts: [optional.example], tls: {mode: OPTIONAL_MUTUAL, credentialName: front}}
  - {port: {number: 9443, protocol: TLS, name: own}, hosts: ["*.own.example"], tls: {mode: PASSTHROUGH}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: front, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: front}}
  rules:
  - {to: [{operation: {paths: [/open]}}]}
  - {from: [{source: {principals: ["*"]}}], to: [{operation: {paths: [/partners]}}]}
  - {when: [{key: connection.sni, values: [till.own.example]}]}
`

// gatewayEnvoy prints and runs the bootstrap of the gateway; TLS that it does not terminate goes to own.
func gatewayEnvoy(t *testing.T, b *bench, host, own string) *testkit.Envoy {
	t.Helper()
	if err := os.Mkdir(b.file("front"), 0o755); err != nil {
		t.Fatal(err)
	}
	leaf := b.certificate(t, "front/tls", testkit.Names{DNS: []string{"simple.example", "mutual.example", "optional.example"}})
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := testkit.WriteLeaf(leaf, b.file("front/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.ca.Write(b.file("front/ca.crt")); err != nil {
		t.Fatal(err)
	}
	args := []string{
		"envoy", "bootstrap", "-c", b.file("authz.sock.yaml"), "--to", "coffee-shop/front", "--labels", "app=front", "--bind", host, "--envoy-admin", "",
		"--gateway", "coffee-shop/front", "--credentials", b.dir, "--check", "--envoy", b.tools.envoy,
		"--upstream", "shop:80,listen=none,address=" + service(t), "--upstream", "till.own.example:443,listen=none,protocol=tcp,address=" + own,
		"--route", "*.own.example=till.own.example:443",
	}
	for _, name := range []string{"open", "simple", "mutual", "optional"} {
		args = append(args, "--route", name+".example=shop:80")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	text, err := exec.CommandContext(ctx, b.writ, args...).Output()
	if err != nil {
		t.Fatalf("writ envoy bootstrap: %v\n%s", err, text)
	}
	envoy, err := testkit.StartEnvoy(bounded(t), testkit.EnvoyConfig{
		Name: "front", Binary: b.tools.envoy, Dir: b.dir,
		Bootstrap: strings.NewReplacer(" timeout: 0.25s", " timeout: 20s", "max_interval: 0.1s", "max_interval: 10s").Replace(string(text)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, envoy.Process) })
	return envoy
}

// TestBootstrapGateway runs the printed bootstrap of a gateway: each of its servers takes the callers that its mode says,
// and policies see the principal that it says.
func TestBootstrapGateway(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.policy(t, "front.yaml", gatewayDocuments)
	b.serve(t, "authz.sock")
	own := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "till") }))
	own.TLS = &tls.Config{Certificates: []tls.Certificate{*b.certificate(t, "till", testkit.Names{DNS: []string{"*.own.example"}})}, MinVersion: tls.VersionTLS12}
	own.StartTLS()
	t.Cleanup(own.Close)
	host := ownLoopback()
	envoy := gatewayEnvoy(t, b, host, own.Listener.Addr().String())

	stranger, err := testkit.NewCA("somebody else")
	if err != nil {
		t.Fatal(err)
	}
	forged, err := stranger.Leaf(testkit.Names{DNS: []string{"partner.example"}})
	if err != nil {
		t.Fatal(err)
	}
	partner := b.certificate(t, "partner", testkit.Names{DNS: []string{"partner.example"}})
	for _, row := range []struct {
		name, url   string
		certificate *tls.Certificate
		want        int // 0: no answer
	}{
		{"HTTP", "http://open.example:9080/open", nil, 200},
		{"HTTP, what no rule allows", "http://open.example:9080/partners", nil, 403},
		{"HTTP, a host that is not served", "http://other.example:9080/open", nil, 404},
		{"httpsRedirect", "http://simple.example:9080/open", nil, 301},
		{"SIMPLE", "https://simple.example:9443/open", nil, 200},
		{"SIMPLE knows nobody", "https://simple.example:9443/partners", partner, 403},
		{"MUTUAL", "https://mutual.example:9443/partners", partner, 200},
		{"MUTUAL without a certificate", "https://mutual.example:9443/open", nil, 0},
		{"MUTUAL with somebody else's certificate", "https://mutual.example:9443/open", forged, 0},
		{"OPTIONAL_MUTUAL", "https://optional.example:9443/partners", partner, 200},
		{"OPTIONAL_MUTUAL without a certificate", "https://optional.example:9443/open", nil, 200},
		{"OPTIONAL_MUTUAL without a certificate, where a principal is needed", "https://optional.example:9443/partners", nil, 403},
		{"OPTIONAL_MUTUAL with somebody else's certificate", "https://optional.example:9443/open", forged, 0},
		{"PASSTHROUGH", "https://till.own.example:9443/", nil, 200},
		{"PASSTHROUGH, a name that no rule allows", "https://safe.own.example:9443/", nil, 0},
		{"a name that nobody serves", "https://other.example:9443/open", nil, 0},
		{"plaintext to TLS", "http://simple.example:9443/open", nil, 0},
		{"an underscore in a header is no dash", "https://simple.example:9443/open?underscore", nil, 400},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := gatewayCall(t, b, host, row.url, row.certificate); got != row.want {
				t.Errorf("status %d, want %d\n%s", got, row.want, envoy.Output.Tail(3))
			}
		})
	}
}

// gatewayCall asks url at the gateway and returns the status, or 0 when there is no answer.
func gatewayCall(t *testing.T, b *bench, host, url string, certificate *tls.Certificate) int {
	t.Helper()
	config := &tls.Config{RootCAs: b.ca.Pool(), MinVersion: tls.VersionTLS12}
	if certificate != nil { // even if the server asks for those of other authorities
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: config,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(host, port))
		}}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	request, err := http.NewRequestWithContext(bounded(t), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(url, "?underscore") {
		request.Header["x_customer_id"] = []string{"root"}
	}
	response, err := client.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Error(fmt.Errorf("%s: %w", url, err))
	}
	return response.StatusCode
}
