package provider_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider"
)

const (
	ourID   = "spiffe://cluster.local/ns/istio-system/sa/writ"
	theirID = "spiffe://cluster.local/ns/authz/sa/authz"
)

// TestIdentity has servers that want a certificate asked by what the Workload API gives, and by nothing else.
func TestIdentity(t *testing.T) {
	noLeaks(t)
	ca, other := newCA(t), newCA(t)
	hour, past := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	ours, theirs := ca.leaf(t, ourID, hour), ca.leaf(t, theirID, hour)
	strange := other.leaf(t, "spiffe://partner.example/authz", hour)
	with := func(change func(*workload.X509SVIDResponse)) *workload.X509SVIDResponse {
		r := given(t, ca, ourID, ours)
		change(r)
		return r
	}
	for _, test := range []struct {
		name   string
		answer *workload.X509SVIDResponse
		err    error
		server tls.Certificate
		id     string // of the server; theirID if empty
		want   authz.Reason
		says   string
	}{
		{name: "allowed", answer: given(t, ca, ourID, ours), server: theirs},
		{name: "not revoked", answer: with(func(r *workload.X509SVIDResponse) { r.Crl = [][]byte{ca.crl(t, hour, strange)} }), server: theirs},
		{name: "a server of another trust domain", answer: with(func(r *workload.X509SVIDResponse) {
			r.FederatedBundles = map[string][]byte{"spiffe://partner.example": other.cert.Raw}
		}), server: strange, id: "spiffe://partner.example/authz"},

		{name: "not ours", err: status.Error(codes.PermissionDenied, "no identity issued"), server: theirs, want: authz.ReasonProviderNoIdentity, says: "no identity issued"},
		{name: "not among those given", answer: given(t, ca, ourID+"2", ours), server: theirs, want: authz.ReasonProviderNoIdentity, says: "add it to the agent's workloads"},
		{name: "no agent", err: status.Error(codes.Unavailable, "starting"), server: theirs, want: authz.ReasonProviderNoIdentity, says: "starting"},
		{name: "revoked", answer: with(func(r *workload.X509SVIDResponse) { r.Crl = [][]byte{ca.crl(t, hour, ours)} }), server: theirs, want: authz.ReasonProviderNoIdentity, says: "was revoked"},
		{name: "ended", answer: given(t, ca, ourID, ca.leaf(t, ourID, past)), server: theirs, want: authz.ReasonProviderNoIdentity, says: "expired"},
		{name: "another's certificate", answer: given(t, ca, ourID, theirs), server: theirs, want: authz.ReasonProviderNoIdentity, says: "and not for " + ourID},
		{name: "under no root", answer: given(t, other, ourID, ours), server: theirs, want: authz.ReasonProviderNoIdentity, says: "unknown authority"},
		{name: "a key that does not fit", answer: with(func(r *workload.X509SVIDResponse) {
			r.Svids[1].X509SvidKey = given(t, ca, ourID, theirs).Svids[1].GetX509SvidKey()
		}), server: theirs, want: authz.ReasonProviderNoIdentity, says: "does not fit"},
		{name: "garbage", answer: with(func(r *workload.X509SVIDResponse) { r.Svids[1].X509Svid = []byte("x") }), server: theirs, want: authz.ReasonProviderNoIdentity, says: "cannot be used"},
		{name: "no roots", answer: with(func(r *workload.X509SVIDResponse) { r.Svids[1].Bundle = nil }), server: theirs, want: authz.ReasonProviderNoIdentity, says: "no root"},
		{name: "a CRL that is none", answer: with(func(r *workload.X509SVIDResponse) { r.Crl = [][]byte{{1}} }), server: theirs, want: authz.ReasonProviderNoIdentity, says: "a CRL"},

		{name: "another server", answer: given(t, ca, ourID, ours), server: ours, want: authz.ReasonProviderUnreachable, says: "and not for " + theirID},
		{name: "a server by its address", answer: given(t, ca, ourID, ours), server: ca.leaf(t, "127.0.0.1", hour), want: authz.ReasonProviderUnreachable, says: "and not for " + theirID},
		{name: "a server of another root", answer: given(t, ca, ourID, ours), server: other.leaf(t, theirID, hour), want: authz.ReasonProviderUnreachable, says: "unknown authority"},
		{name: "a server that ended", answer: given(t, ca, ourID, ours), server: ca.leaf(t, theirID, past), want: authz.ReasonProviderUnreachable, says: "expired"},
		{name: "a server that was revoked", answer: with(func(r *workload.X509SVIDResponse) { r.Crl = [][]byte{ca.crl(t, hour, theirs)} }), server: theirs, want: authz.ReasonProviderUnreachable, says: "was revoked"},
		{name: "a CRL that ended", answer: with(func(r *workload.X509SVIDResponse) { r.Crl = [][]byte{ca.crl(t, past)} }), server: theirs, want: authz.ReasonProviderUnreachable, says: "ended at"},
		{name: "a trust domain without roots", answer: given(t, ca, ourID, ours), server: strange, id: "spiffe://partner.example/authz", want: authz.ReasonProviderUnreachable, says: "no roots of the trust domain partner.example"},
		{name: "the root of another trust domain", answer: with(func(r *workload.X509SVIDResponse) {
			r.FederatedBundles = map[string][]byte{"spiffe://partner.example": other.cert.Raw}
		}), server: other.leaf(t, theirID, hour), want: authz.ReasonProviderUnreachable, says: "unknown authority"},
	} {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			api, _ := serveWorkloadAPI(t, filepath.Join(t.TempDir(), "api.sock"))
			identity := runIdentity(t, api.socket)
			all, seen := mutual(t, demanding(ca, test.server), identity, defaulted(test.id, theirID))
			askAll(t, all, authz.ReasonProviderNoIdentity, "not asked", ourID)
			api.say(test.answer, test.err)
			if test.want == authz.ReasonProviderNoIdentity {
				untilStatus(t, identity, "refused", stands(false, test.says))
			} else {
				untilStatus(t, identity, "ready", ready)
			}
			if test.want == "" {
				askAll(t, all, "")
			} else {
				askAll(t, all, test.want, test.says)
			}
			if got, want := seen.times(identity.Status().Serial), map[bool]int{true: 2}[test.want == ""]; got != want {
				t.Errorf("the servers were asked %d times with that certificate, want %d", got, want)
			}
		})
	}
}

func defaulted(text, instead string) string {
	if text == "" {
		return instead
	}
	return text
}

// TestIdentityRotation replaces certificate and root while calls run: none fails, each new certificate is used, and the
// connections of old ones go.
func TestIdentityRotation(t *testing.T) {
	noLeaks(t)
	first, second := newCA(t), newCA(t)
	hour := time.Now().Add(time.Hour)
	api, _ := serveWorkloadAPI(t, filepath.Join(t.TempDir(), "api.sock"))
	identity := runIdentity(t, api.socket)
	var mu sync.Mutex
	server := demanding(first, first.leaf(t, theirID, hour))
	server.ClientCAs.AddCert(second.cert)
	follow := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		return server, nil
	}, Certificates: server.Certificates}
	all, seen := mutual(t, follow, identity, theirID)

	say := func(ca *testCA, roots ...*testCA) string {
		r := given(t, ca, ourID, ca.leaf(t, ourID, hour))
		for _, root := range roots {
			r.Svids[1].Bundle = append(r.Svids[1].Bundle, root.cert.Raw...)
		}
		leaf, err := x509.ParseCertificate(r.Svids[1].GetX509Svid())
		if err != nil {
			t.Fatal(err)
		}
		api.say(r, nil)
		serial := leaf.SerialNumber.Text(16)
		untilStatus(t, identity, "renewed", func(s provider.IdentityStatus) bool { return s.Ready && s.Serial == serial && s.Error == "" })
		return serial
	}
	say(first)
	stop := make(chan struct{})
	var busy sync.WaitGroup
	defer busy.Wait()
	end := sync.OnceFunc(func() { close(stop) })
	defer end()
	for kind, p := range all {
		for range 4 {
			busy.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					var a authz.Answer
					if err := p.Ask(within(t, plenty), question(t), &a); err != nil || !a.Allow {
						t.Errorf("%s: %v, %v", kind, a.Allow, err)
						return
					}
				}
			})
		}
	}
	used := func(serial string) {
		t.Helper()
		untilStatus(t, identity, "used by both", func(provider.IdentityStatus) bool { return seen.times(serial) > 20 })
	}
	used(say(first))
	used(say(first, second)) // the new root is known before anything is under it
	mu.Lock()
	server = demanding(second, second.leaf(t, theirID, hour))
	server.ClientCAs.AddCert(first.cert)
	mu.Unlock()
	used(say(second, first))
	used(say(second)) // the old root is gone
	end()
	busy.Wait()
	untilStatus(t, identity, "rid of the connections of old certificates", func(provider.IdentityStatus) bool {
		return seen.grpc.open.Load() == 1 && seen.http.open.Load() <= 12
	})
}

// TestIdentityLost keeps a certificate while its agent is gone, and not when the agent says that it is no longer ours.
func TestIdentityLost(t *testing.T) {
	noLeaks(t)
	ca, hour := newCA(t), time.Now().Add(time.Hour)
	socket := filepath.Join(t.TempDir(), "api.sock")
	api, stop := serveWorkloadAPI(t, socket)
	identity := runIdentity(t, socket)
	all, _ := mutual(t, demanding(ca, ca.leaf(t, theirID, hour)), identity, theirID)
	ours := given(t, ca, ourID, ca.leaf(t, ourID, hour))
	api.say(ours, nil)
	untilStatus(t, identity, "ready", ready)
	askAll(t, all, "")

	broken := given(t, ca, ourID, ca.leaf(t, ourID, hour))
	broken.Svids[1].X509SvidKey = []byte("x")
	api.say(broken, nil)
	untilStatus(t, identity, "in trouble", stands(true, "cannot be used"))
	askAll(t, all, "")

	stop()
	untilStatus(t, identity, "alone", stands(true, "the Workload API at "+socket))
	askAll(t, all, "")

	api, _ = serveWorkloadAPI(t, socket)
	api.say(ours, nil)
	untilStatus(t, identity, "back", stands(true, ""))
	api.say(nil, status.Error(codes.PermissionDenied, "no identity issued"))
	untilStatus(t, identity, "dropped", stands(false, "no identity issued"))
	askAll(t, all, authz.ReasonProviderNoIdentity, "no identity issued")

	api.say(given(t, ca, ourID, ca.leaf(t, ourID, time.Now().Add(2*time.Second))), nil)
	untilStatus(t, identity, "ready once more", ready)
	untilStatus(t, identity, "ended", stands(false, "ended at"))
	askAll(t, all, authz.ReasonProviderNoIdentity, "ended at")
}

func TestNewIdentity(t *testing.T) {
	for _, test := range []struct{ id, socket, says string }{
		{"", "s", "no SPIFFE ID"},
		{"https://cluster.local/writ", "s", "no SPIFFE ID"},
		{"spiffe://cluster.local", "s", "names a trust domain"},
		{"spiffe://Cluster.local/writ", "s", "no SPIFFE ID"},
		{ourID, "", "the socket of the Workload API is missing"},
	} {
		_, err := provider.NewIdentity(provider.IdentityConfig{ID: test.id, Socket: test.socket})
		wantError(t, err, test.says)
	}
	identity, err := provider.NewIdentity(provider.IdentityConfig{ID: ourID, Socket: "s"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		tls  provider.TLS
		says string
	}{
		{provider.TLS{Identity: identity}, "name the SPIFFE ID of the server"},
		{provider.TLS{Identity: identity, ServerName: "authz.example"}, "want the SPIFFE ID of the server"},
		{provider.TLS{Identity: identity, ServerName: "spiffe://cluster.local"}, "names a trust domain"},
		{provider.TLS{Identity: identity, ServerName: theirID, CA: "ca.pem"}, "which stands for all of them"},
	} {
		for _, err := range []error{
			(&provider.GRPCConfig{Target: "authz.example:9000", TLS: &test.tls}).Check(),
			(&provider.HTTPConfig{Target: "https://authz.example", TLS: &test.tls}).Check(),
		} {
			var problems provider.Problems
			if !errors.As(err, &problems) || len(problems) != 1 || !strings.Contains(problems[0].Message, test.says) {
				t.Error(fmt.Sprint(err), test.says)
			}
		}
	}
}
