package caserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	spiffe "github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/caserver"
)

// minting is a bench whose authority mints JWT-SVIDs.
func minting(t *testing.T) *bench {
	t.Helper()
	return newBench(t, options{server: func(c *caserver.Config) { c.Minter = c.Authority.(*ca.Authority) }})
}

// mint asks for a token with a client certificate, a bearer token, both or neither.
func (b *bench) mint(t *testing.T, certificate *tls.Certificate, bearer string, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	t.Helper()
	ctx := t.Context()
	if bearer != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+bearer)
	}
	answer := new(workload.JWTSVIDResponse)
	err := b.dial(t, certificate).Invoke(ctx, caserver.MethodMintJWT, r, answer)
	return answer, err
}

func TestJWTSVIDForTheCallersOwnIdentity(t *testing.T) {
	b := minting(t)
	answer, err := b.mint(t, nil, b.orderToken(t), &workload.JWTSVIDRequest{Audience: []string{"payment"}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := caserver.SPIFFEBundle(b.authority.Bundle(), b.authority.JWTKeys())
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := spiffebundle.Parse(spiffe.RequireTrustDomainFromString("td.test"), text)
	if err != nil {
		t.Fatal(err)
	}
	svid, err := jwtsvid.ParseAndValidate(answer.GetSvids()[0].GetSvid(), bundle, []string{"payment"})
	if err != nil || svid.ID.String() != answer.GetSvids()[0].GetSpiffeId() || !strings.HasSuffix(svid.ID.Path(), "/sa/order") {
		t.Errorf("%+v, %v", svid, err)
	}
	if strings.Contains(b.logged.text(), answer.GetSvids()[0].GetSvid()) {
		t.Error("the log has the token")
	}
	if b.server.Minted(caserver.Issued) != 1 {
		t.Errorf("%d were counted", b.server.Minted(caserver.Issued))
	}
}

func TestJWTSVIDRefused(t *testing.T) {
	b := minting(t)
	join := b.joinToken(t, "spiffe://td.test/ns/coffee-shop/sa/payment")
	for _, test := range []struct {
		name   string
		bearer string
		r      *workload.JWTSVIDRequest
		want   codes.Code
	}{
		{"nobody", "", &workload.JWTSVIDRequest{Audience: []string{"a"}}, codes.Unauthenticated},
		{"no audience", b.orderToken(t), &workload.JWTSVIDRequest{}, codes.InvalidArgument},
		{"another's identity", b.orderToken(t), &workload.JWTSVIDRequest{
			Audience: []string{"a"}, SpiffeId: "spiffe://td.test/ns/coffee-shop/sa/payment",
		}, codes.PermissionDenied},
		{"a join token", join, &workload.JWTSVIDRequest{Audience: []string{"a"}}, codes.InvalidArgument},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := b.mint(t, nil, test.bearer, test.r)
			wantCode(t, err, test.want)
		})
	}
	t.Run("the join token is still good", func(t *testing.T) {
		if _, err := b.do(t, call{bearer: join}); err != nil {
			t.Error(err)
		}
	})
	t.Run("off", func(t *testing.T) {
		off := newBench(t, options{})
		_, err := off.mint(t, nil, off.orderToken(t), &workload.JWTSVIDRequest{Audience: []string{"a"}})
		wantCode(t, err, codes.Unimplemented)
	})
}

// TestBundleEndpoint asks as federation's clients do: over TLS that proves the authority by a bundle it already has.
func TestBundleEndpoint(t *testing.T) {
	b := minting(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &caserver.Endpoint{Publisher: b.authority, Issuer: "https://issuer.test", Logger: discard()}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Serve(ctx, listener, b.server.Certificate) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	td := spiffe.RequireTrustDomainFromString("td.test")
	known := spiffebundle.FromX509Authorities(td, certificatesOf(b.authority.Bundle()))
	got, err := federation.FetchBundle(t.Context(), td, "https://"+listener.Addr().String()+"/",
		federation.WithSPIFFEAuth(known, spiffe.RequireFromString("spiffe://td.test/writ/authority")))
	if err != nil {
		t.Fatal(err)
	}
	sequence, _ := got.SequenceNumber()
	if len(got.X509Authorities()) != 1 || len(got.JWTAuthorities()) != 1 || sequence == 0 {
		t.Errorf("%d roots, %d JWT keys, sequence %d", len(got.X509Authorities()), len(got.JWTAuthorities()), sequence)
	}
}

func TestEndpointAnswers(t *testing.T) {
	b := minting(t)
	e := &caserver.Endpoint{Publisher: b.authority, Issuer: "https://issuer.test", Logger: discard()}
	ask := func(method, path, match string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
		if match != "" {
			r.Header.Set("If-None-Match", match)
		}
		w := httptest.NewRecorder()
		e.ServeHTTP(w, r)
		return w
	}
	for path, want := range map[string]int{
		"/": http.StatusOK, "/keys": http.StatusOK, "/.well-known/openid-configuration": http.StatusOK, "/other": http.StatusNotFound,
	} {
		if got := ask(http.MethodGet, path, ""); got.Code != want {
			t.Errorf("%s: %d, want %d", path, got.Code, want)
		}
	}
	if got := ask(http.MethodPost, "/", ""); got.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", got.Code)
	}
	tag := ask(http.MethodGet, "/", "").Header().Get("ETag")
	if got := ask(http.MethodGet, "/", tag); got.Code != http.StatusNotModified || got.Body.Len() != 0 {
		t.Errorf("the same again: %d", got.Code)
	}
	var d struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	err := json.Unmarshal(ask(http.MethodGet, "/.well-known/openid-configuration", "").Body.Bytes(), &d)
	if err != nil || d.Issuer != "https://issuer.test" || d.Keys != "https://issuer.test/keys" {
		t.Errorf("%+v, %v", d, err)
	}
	e.Issuer = ""
	if got := ask(http.MethodGet, "/keys", ""); got.Code != http.StatusNotFound {
		t.Errorf("keys without an issuer: %d", got.Code)
	}
	e.Publisher = unready{}
	if got := ask(http.MethodGet, "/", ""); got.Code != http.StatusServiceUnavailable {
		t.Errorf("nothing to show: %d", got.Code)
	}
}

// unready is an authority that is not ready.
type unready struct{}

func (unready) Bundle() *ca.Bundle   { return nil }
func (unready) JWTKeys() *ca.JWTKeys { return nil }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func certificatesOf(b *ca.Bundle) []*x509.Certificate {
	var out []*x509.Certificate
	for _, r := range b.Roots {
		out = append(out, r.Certificate)
	}
	return out
}
