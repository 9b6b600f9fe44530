package e2e_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/writ-auth/writ/internal/testkit"
)

// revokeTTL is long enough that what was revoked is not renewed before anybody looks, and short enough to wait for that.
const revokeTTL = 40 * time.Second

// TestMutualTLSRevocation: whoever holds a revoked certificate is refused by the next decision, on connections that stand,
// too, and by the other Envoy at the next handshake, whichever side it is on (identity §9). Nobody else is.
func TestMutualTLSRevocation(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	main, address := m.authority(revokeTTL, "")
	both := []string{ours(orderID), ours(strangeID)}
	caller := m.agent("caller", main, []string{address}, []string{"spiffe://cluster.local/node/caller", orderID, strangeID}, both...)
	caller.ready()
	server := m.agent("server", main, []string{address}, []string{"spiffe://cluster.local/node/server", paymentID}, byPath(paymentID, m.tools.envoy))
	server.ready()
	callee := m.proxy("server", "server", proxy{SDS: "server.sock", HTTP: service(t), TCP: database(t), Authz: []string{m.file("main-authz.sock")}})
	envoy := m.proxy("caller", "client", proxy{
		SDS: "caller.sock", HTTP: callee.Listener("http"), TCP: callee.Listener("tcp"), Peer: paymentID,
	})
	plain := plainClient("HTTP/1.1")
	through := func() int { return answer(t, plain, "http://"+envoy.Listener("http")+"/orders") }
	is := func(what string, want int) {
		t.Helper()
		eventuallyWithin(t, revokeTTL+patience, what, func() error {
			if got := through(); got != want {
				return fmt.Errorf("status %d, want %d", got, want)
			}
			return nil
		})
	}
	is("all is well", http.StatusOK)

	// The server's certificate, by its serial number: the caller's Envoy refuses it, until there is another one.
	s, err := server.status()
	if err != nil || len(s.Agent.Identities) != 1 {
		t.Fatalf("%+v, %v", s.Agent, err)
	}
	main.do("ca", "revoke", "--serial", s.Agent.Identities[0].Serial, "--reason", "keyCompromise")
	revoked := time.Now()
	is("the server is refused", http.StatusServiceUnavailable)
	t.Logf("the server was refused by the caller's Envoy %v after it was revoked", time.Since(revoked).Round(10*time.Millisecond))
	refusedBy(t, envoy, "cluster.http.ssl.fail_verify_error")
	is("the server has another certificate", http.StatusOK)

	// The caller, by its name. What is open is refused by the decision, what is new by the handshake.
	open, stranger := caller.client(t, orderID), caller.client(t, strangeID)
	if got := answer(t, open, "https://"+callee.Listener("http")); got != http.StatusOK {
		t.Fatalf("status %d", got)
	}
	main.do("ca", "revoke", "--id", orderID, "--reason", "keyCompromise")
	revoked = time.Now()
	if got := answer(t, open, "https://"+callee.Listener("http")); got != http.StatusForbidden {
		t.Errorf("on a connection that stands: status %d", got)
	}
	after, err := main.status()
	if err != nil || !strings.Contains(fmt.Sprint(after.Checks), " revoked ") {
		t.Errorf("no check says that it was revoked: %+v, %v", after.Checks, err)
	}
	eventually(t, "no handshake with the caller", func() error {
		fresh := caller.client(t, orderID)
		request, err := http.NewRequestWithContext(bounded(t), http.MethodGet, "https://"+callee.Listener("http"), nil)
		if err != nil {
			return err
		}
		response, err := fresh.Do(request)
		if err == nil {
			_ = response.Body.Close()
			return fmt.Errorf("status %d", response.StatusCode)
		}
		if alert := tls.AlertError(0); !errors.As(err, &alert) && !strings.Contains(err.Error(), "revoked") {
			return fmt.Errorf("no alert: %w", err)
		}
		return nil
	})
	t.Logf("the caller was refused by the server's Envoy %v after it was revoked", time.Since(revoked).Round(10*time.Millisecond))
	refusedBy(t, callee, ".ssl.fail_verify_error")
	is("nor by its Envoy", http.StatusServiceUnavailable)
	if got := answer(t, stranger, "https://"+callee.Listener("http")); got != http.StatusForbidden {
		t.Errorf("who was not revoked: status %d, want a handshake and then 403 by the policy", got)
	}
}

// client calls with an identity that go-spiffe gets from the agent, and keeps its connection.
func (u unit) client(t *testing.T, id string) *http.Client {
	t.Helper()
	source, err := workloadapi.NewX509Source(bounded(t), u.api(), workloadapi.WithDefaultX509SVIDPicker(pick(id)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = source.Close() })
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(spiffeid.RequireFromString(paymentID)))
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: patience}
}

// answer is the status of one request.
func answer(t *testing.T, client *http.Client, url string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(bounded(t), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Error(err)
	}
	return response.StatusCode
}

// refusedBy demands that Envoy counted a certificate that it did not accept.
func refusedBy(t *testing.T, envoy *testkit.Envoy, suffix string) {
	t.Helper()
	counters, err := envoy.Counters(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range counters {
		if strings.HasSuffix(name, suffix) && n > 0 {
			return
		}
	}
	t.Errorf("%s counts no %s", envoy.Name, suffix)
}
