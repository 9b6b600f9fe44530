package caserver_test

import (
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/ca/caserver"
)

// TestCredentialsRefused is the first row of identity §2.7's second line: bad credentials are Unauthenticated, so that
// agents do not try them again (surprise 8).
func TestCredentialsRefused(t *testing.T) {
	b := newBench(t, options{})
	other := newBench(t, options{})
	used := b.joinToken(t, order)
	if _, err := b.do(t, call{bearer: used}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		call   call
		reason attest.Reason
	}{
		{"none", call{}, attest.NoCredentials},
		{"none, and a bad request", call{csr: "x"}, attest.NoCredentials},
		{"garbage", call{bearer: "abc"}, attest.TokenInvalid},
		{"a replayed join token", call{bearer: used}, attest.JoinTokenRefused},
		{"a join token that never was", call{bearer: attest.NewJoinToken().Reveal()}, attest.JoinTokenRefused},
		{"another issuer's token", call{bearer: other.orderToken(t)}, attest.TokenInvalid},
		{"a short subject", call{bearer: b.token(t, "system:serviceaccount:order")}, attest.TokenInvalid},
		{"a comma in the subject", call{bearer: b.token(t, "system:serviceaccount:a:b,c")}, attest.TokenInvalid},
		{"NUL in the subject", call{bearer: b.token(t, "system:serviceaccount:a:b\x00")}, attest.TokenInvalid},
		{"dots in the subject", call{bearer: b.token(t, "system:serviceaccount:..:b")}, attest.TokenInvalid},
		{"another scheme", call{headers: []string{"authorization", "Basic YTpi"}}, attest.BadAuthorization},
		{"two different tokens", call{bearer: b.orderToken(t), headers: []string{"authorization", "Bearer abc"}}, attest.BadAuthorization},
		{"another authority's certificate", call{certificate: other.certificate(t, call{bearer: other.orderToken(t)})}, attest.CertificateInvalid},
		{"a cluster ID is no credential", call{headers: []string{"clusterid", "c1", "x-forwarded-client-cert", "URI=" + order}}, attest.NoCredentials},
		{"certificate and token disagree", call{
			certificate: b.certificate(t, call{bearer: b.orderToken(t)}), bearer: b.token(t, "system:serviceaccount:coffee-shop:payment"),
		}, attest.Disagreement},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := b.do(t, test.call)
			wantCode(t, err, codes.Unauthenticated)
			o := b.last(t)
			if o.Outcome != caserver.Unauthenticated || o.Reason != string(test.reason) || o.Err == nil {
				t.Errorf("observed %s, %s, %v", o.Outcome, o.Reason, o.Err)
			}
		})
	}
}

func TestTokenSchemeInAnyCase(t *testing.T) {
	b := newBench(t, options{})
	for _, scheme := range []string{"Bearer", "bearer", "BEARER"} {
		if _, err := b.do(t, call{headers: []string{"authorization", scheme + " " + b.orderToken(t)}}); err != nil {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

func TestRenewalByCertificate(t *testing.T) {
	b := newBench(t, options{})
	pair := b.certificate(t, call{bearer: b.orderToken(t)})
	client := b.client(t, pair)
	chain, err := call{}.send(t, client)
	if err != nil {
		t.Fatal(err)
	}
	if leaf := leafOf(t, chain); leaf.URIs[0].String() != order {
		t.Errorf("names %v", leaf.URIs)
	}
	if o := b.last(t); o.Caller.String() != "client_cert:"+order {
		t.Errorf("caller %s", o.Caller)
	}
	t.Run("beside a token that is good no more, as machines send that joined by one", func(t *testing.T) {
		if _, err := b.do(t, call{certificate: pair, bearer: b.orderToken(t) + "x"}); err != nil {
			t.Error(err)
		}
	})
	t.Run("expired, on a connection that is still open", func(t *testing.T) {
		b.shift.Add(int64(2 * time.Hour))
		_, err := call{}.send(t, client)
		b.shift.Add(-int64(2 * time.Hour))
		wantCode(t, err, codes.Unauthenticated)
		if o := b.last(t); o.Reason != string(attest.CertificateExpired) {
			t.Errorf("reason %s", o.Reason)
		}
	})
	t.Run("revoked, on a connection that is still open", func(t *testing.T) {
		if err := b.admin.Revoke(t.Context(), "test", caserver.RevokeRequest{ID: mustID(t, order), Reason: "keyCompromise"}); err != nil {
			t.Fatal(err)
		}
		_, err := call{}.send(t, client)
		wantCode(t, err, codes.PermissionDenied)
		_, err = b.do(t, call{bearer: b.orderToken(t)})
		wantCode(t, err, codes.PermissionDenied)
	})
}

// TestGrace: a machine that was off for too long comes back by itself, where that is configured.
func TestGrace(t *testing.T) {
	b := newBench(t, options{grace: 24 * time.Hour})
	pair := b.certificate(t, call{bearer: b.joinToken(t, order)})
	b.advance(t, 5*time.Hour)
	if _, err := b.do(t, call{certificate: pair}); err != nil {
		t.Errorf("within grace: %v, %v", err, b.last(t).Err)
	}
	b.advance(t, 24*time.Hour)
	_, err := b.do(t, call{certificate: pair})
	wantCode(t, err, codes.Unauthenticated)
}

// TestImpersonation is identity §2.3 for nodes with a join token, on the wire.
func TestImpersonation(t *testing.T) {
	b := newBench(t, options{})
	pair := b.certificate(t, call{bearer: b.joinToken(t, node, order, payment)})
	ask := func(c call, identity any) ([]string, error) {
		c.metadata = map[string]any{"ImpersonatedIdentity": identity, "CertSigner": ""}
		return b.do(t, c)
	}
	for _, id := range []string{node, order, payment} {
		chain, err := ask(call{certificate: pair}, id)
		if err != nil {
			t.Errorf("%s: %v, %v", id, err, b.last(t).Err)
			continue
		}
		if leaf := leafOf(t, chain); len(leaf.URIs) != 1 || leaf.URIs[0].String() != id || len(leaf.DNSNames) > 0 {
			t.Errorf("asked for %s, got %v %v", id, leaf.URIs, leaf.DNSNames)
		}
	}
	joining, err := ask(call{bearer: b.joinToken(t, node, order)}, order)
	if err != nil || leafOf(t, joining).URIs[0].String() != order {
		t.Errorf("in the call that joins: %v", err)
	}
	for _, identity := range []string{
		"spiffe://td.test/ns/coffee-shop/sa/menu", "spiffe://other.test/ns/coffee-shop/sa/order", "spiffe:///ns/coffee-shop/sa/order",
		"spiffe://x,istiod.istio-system.svc,y/ns/a/sa/b", order + "," + payment, order + "\x00", "spiffe://td.test/ns/../sa/order",
		"spiffe://td.test/ns/coffee-shop/sa/%6frder", " " + order, "spiffe://td.test/ns//sa/", "istiod.istio-system.svc", "spiffe://td.test",
	} {
		_, err := ask(call{certificate: pair}, identity)
		wantCode(t, err, codes.PermissionDenied)
		if o := b.last(t); o.Reason != string(attest.NotGranted) || o.Caller == nil {
			t.Errorf("%q: observed %s, caller %v", identity, o.Reason, o.Caller)
		}
	}
	_, err = ask(call{bearer: b.orderToken(t)}, payment)
	wantCode(t, err, codes.PermissionDenied)
	_, err = ask(call{certificate: pair}, 7.0)
	wantCode(t, err, codes.InvalidArgument)
}

// TestJoinTokenAgain: an answer that was lost on its way is asked for again, with the key that the token was used for and
// with no other, whatever the request says beside it; until a certificate of that key is revoked.
func TestJoinTokenAgain(t *testing.T) {
	for _, name := range []string{"", order} {
		b := newBench(t, options{})
		key := newKey(t)
		c := call{bearer: b.joinToken(t, order), csr: csr(t, key, name)}
		first, err := b.do(t, c)
		if err != nil {
			t.Fatal(err)
		}
		stranger := call{bearer: c.bearer, csr: csr(t, newKey(t), name)}
		_, err = b.do(t, stranger)
		wantCode(t, err, codes.Unauthenticated)
		c.csr = csr(t, key, "") // another request, the same key
		again, err := b.do(t, c)
		if err != nil {
			t.Fatalf("the same key: %v, %v", err, b.last(t).Err)
		}
		if one, other := leafOf(t, first), leafOf(t, again); one.SerialNumber.Cmp(other.SerialNumber) == 0 || other.URIs[0].String() != order {
			t.Errorf("certificates %v and %v of %v", one.SerialNumber, other.SerialNumber, other.URIs)
		}
		var serial ca.Serial
		leafOf(t, again).SerialNumber.FillBytes(serial[:])
		if err := b.authority.Revoke(t.Context(), ca.Revocation{Serial: serial, Reason: "superseded", By: "test"}); err != nil {
			t.Fatal(err)
		}
		_, err = b.do(t, c)
		wantCode(t, err, codes.Unauthenticated)
		if o := b.last(t); o.Reason != string(attest.JoinTokenRefused) {
			t.Errorf("observed %s, %v", o.Reason, o.Err)
		}
	}
}

// TestBadRequestKeepsTheJoinToken: a slip does not cost the node its only token.
func TestBadRequestKeepsTheJoinToken(t *testing.T) {
	b := newBench(t, options{})
	token := b.joinToken(t, order)
	for name, c := range map[string]call{
		"no request":         {csr: "x"},
		"unknown signer":     {metadata: map[string]any{"CertSigner": "other"}},
		"malformed identity": {metadata: map[string]any{"ImpersonatedIdentity": order + ","}},
	} {
		c.bearer = token
		_, err := b.do(t, c)
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.do(t, call{bearer: token, csr: csr(t, newKey(t), order)}); err != nil {
		t.Errorf("the token is gone: %v", err)
	}
}

func TestReplayedTokenByMany(t *testing.T) {
	b := newBench(t, options{})
	client := b.client(t, nil)
	token := b.joinToken(t, order)
	results := make(chan codes.Code, 200)
	for range 200 {
		go func() {
			_, err := call{bearer: token}.send(t, client)
			results <- status.Code(err)
		}()
	}
	count := map[codes.Code]int{}
	for range 200 {
		count[<-results]++
	}
	if count[codes.OK] != 1 || count[codes.Unauthenticated] != 199 {
		t.Errorf("answers %v", count)
	}
}

func TestTwoHundredCallers(t *testing.T) {
	b := newBench(t, options{})
	var callers sync.WaitGroup
	for i := range 200 {
		token := b.token(t, fmt.Sprintf("system:serviceaccount:many:caller-%d", i))
		callers.Go(func() {
			chain, err := b.do(t, call{bearer: token})
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
				return
			}
			if got, want := leafOf(t, chain).URIs[0].String(), fmt.Sprintf("spiffe://td.test/ns/many/sa/caller-%d", i); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	callers.Wait()
	b.store.CheckCertificates()
}

// TestSecretsAreNotLogged: what a caller sends to prove itself is in no log line.
func TestSecretsAreNotLogged(t *testing.T) {
	b := newBench(t, options{})
	join, bearer := b.joinToken(t, order), b.orderToken(t)
	for range 2 {
		_, _ = b.do(t, call{bearer: join})
	}
	_, _ = b.do(t, call{bearer: bearer})
	_, _ = b.do(t, call{bearer: bearer + "x"})
	text := b.logged.text()
	for _, secret := range []string{join, bearer, strings.TrimPrefix(join, attest.JoinTokenPrefix)} {
		if strings.Contains(text, secret) {
			t.Error("a credential is in the log")
		}
	}
	if !strings.Contains(text, "certificate issued") || !strings.Contains(text, "certificate refused") {
		t.Errorf("the log says nothing: %s", text)
	}
	block, _ := pem.Decode(b.authority.Bundle().PEM)
	if block == nil {
		t.Error("no bundle")
	}
}

// TestLogText: what a caller chose is quoted once, by the log's own format, and bounded.
func TestLogText(t *testing.T) {
	b := newBench(t, options{})
	if _, err := b.do(t, call{bearer: b.orderToken(t), headers: []string{"clusterid", `a "b"` + strings.Repeat("c", 300)}}); err != nil {
		t.Fatal(err)
	}
	if text := b.logged.text(); !strings.Contains(text, `cluster="a \"b\"cc`) || strings.Contains(text, strings.Repeat("c", 256)) {
		t.Errorf("log:\n%s", text)
	}
}
