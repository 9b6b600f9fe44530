package workloadapi_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	spiffe "github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	client "github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func (n *node) address() client.X509SourceOption {
	return client.WithClientOptions(client.WithAddr("unix://" + n.socket))
}

// within bounds what a client of go-spiffe would wait for without end.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestX509Source is go-spiffe's own source: its first answer waits for the certificate, and it follows a renewal.
func TestX509Source(t *testing.T) {
	n := newNode(t)
	go func() { // the agent is not ready yet when the workload comes
		<-n.asked
		n.publish(t, 1)
		n.issue(t, order)
	}()
	source, err := client.NewX509Source(within(t), n.address())
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	svid, err := source.GetX509SVID()
	if err != nil || svid.ID.String() != order {
		t.Fatalf("%v, %v", svid, err)
	}
	bundle, err := source.GetX509BundleForTrustDomain(spiffe.RequireTrustDomainFromString("cluster.local"))
	if err != nil || !bundle.HasX509Authority(n.root) {
		t.Errorf("bundle: %v", err)
	}
	if _, _, err := x509svid.Verify(svid.Certificates, bundle); err != nil {
		t.Error(err)
	}
	renewed := n.issue(t, order)
	for {
		select {
		case <-source.Updated():
		case <-within(t).Done():
			t.Fatal("the renewal does not arrive")
		}
		if svid, err := source.GetX509SVID(); err == nil && svid.Certificates[0].Equal(renewed) {
			return
		}
	}
}

func TestJWTSourceAndValidation(t *testing.T) {
	n := newNode(t)
	n.publish(t, 1)
	source, err := client.NewJWTSource(within(t), client.WithClientOptions(client.WithAddr("unix://"+n.socket)))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	svid, err := source.FetchJWTSVID(within(t), jwtsvid.Params{Audience: "payment", ExtraAudiences: []string{"barista"}})
	if err != nil || svid.ID.String() != order {
		t.Fatalf("%v, %v", svid, err)
	}
	if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{"barista"}); err != nil {
		t.Error(err)
	}
	options := client.WithAddr("unix://" + n.socket)
	if got, err := client.ValidateJWTSVID(within(t), svid.Marshal(), "payment", options); err != nil || got.ID != svid.ID {
		t.Errorf("%v, %v", got, err)
	}
	for name, token := range map[string]string{
		"another audience": svid.Marshal(), "a cut token": svid.Marshal()[:40], "none": "", "an endless one": strings.Repeat("a", 20<<10),
	} {
		audience := "payment"
		if name == "another audience" {
			audience = "inventory"
		}
		if _, err := client.ValidateJWTSVID(within(t), token, audience, options); status.Code(errors.Unwrap(err)) != codes.InvalidArgument && status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTokenCache: a token is minted once for one set of audiences, and two sets are never taken for one.
func TestTokenCache(t *testing.T) {
	n := newNode(t)
	n.publish(t, 1)
	ask := func(audiences ...string) string {
		svid, err := client.FetchJWTSVID(within(t), jwtsvid.Params{Audience: audiences[0], ExtraAudiences: audiences[1:]}, client.WithAddr("unix://"+n.socket))
		if err != nil {
			t.Fatal(err)
		}
		return svid.Marshal()
	}
	if ask("a", "b") != ask("b", "a") || n.minted != 1 {
		t.Errorf("minted %d times", n.minted)
	}
	if ask("ab", "cd") == ask("a", "bcd") || n.minted != 3 {
		t.Errorf("minted %d times", n.minted)
	}
}

// TestWatchersSeeBundles follows both kinds of bundles.
func TestWatchersSeeBundles(t *testing.T) {
	n := newNode(t)
	n.publish(t, 1)
	td := spiffe.RequireTrustDomainFromString("cluster.local")
	bundles, err := client.FetchX509Bundles(within(t), client.WithAddr("unix://"+n.socket))
	if err != nil {
		t.Fatal(err)
	}
	if b, ok := bundles.Get(td); !ok || !b.HasX509Authority(n.root) {
		t.Error("the root is missing")
	}
	keys, err := client.FetchJWTBundles(within(t), client.WithAddr("unix://"+n.socket))
	if err != nil {
		t.Fatal(err)
	}
	if b, ok := keys.Get(td); !ok || len(b.JWTAuthorities()) != 1 {
		t.Error("the key of tokens is missing")
	}
}

// raw is a client that sends what it is told, with the header or another.
func (n *node) raw(t *testing.T, headers ...string) (workload.SpiffeWorkloadAPIClient, context.Context) {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+n.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return workload.NewSpiffeWorkloadAPIClient(conn), metadata.AppendToOutgoingContext(within(t), headers...)
}

func TestRefused(t *testing.T) {
	n := newNode(t)
	n.publish(t, 1)
	n.issue(t, order)
	first := func(headers ...string) error {
		c, ctx := n.raw(t, headers...)
		stream, err := c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	token := func(r *workload.JWTSVIDRequest) error {
		c, ctx := n.raw(t, "workload.spiffe.io", "true")
		_, err := c.FetchJWTSVID(ctx, r)
		return err
	}
	for _, test := range []struct {
		name string
		ask  func() error
		want codes.Code
	}{
		{"no header", func() error { return first() }, codes.InvalidArgument},
		{"the header says yes", func() error { return first("workload.spiffe.io", "yes") }, codes.InvalidArgument},
		{"the header twice", func() error { return first("workload.spiffe.io", "true", "workload.spiffe.io", "true") }, codes.InvalidArgument},
		{"the header", func() error { return first("workload.spiffe.io", "true") }, codes.OK},
		{"no audience", func() error { return token(&workload.JWTSVIDRequest{}) }, codes.InvalidArgument},
		{"an empty audience", func() error { return token(&workload.JWTSVIDRequest{Audience: []string{""}}) }, codes.InvalidArgument},
		{"no SPIFFE ID", func() error { return token(&workload.JWTSVIDRequest{Audience: []string{"a"}, SpiffeId: "order"}) }, codes.InvalidArgument},
		{"another's ID", func() error { return token(&workload.JWTSVIDRequest{Audience: []string{"a"}, SpiffeId: payment}) }, codes.PermissionDenied},
		{"no authority", func() error { return token(&workload.JWTSVIDRequest{Audience: []string{"broken"}}) }, codes.Unavailable},
		{"nobody", func() error { n.allow(nil); return first("workload.spiffe.io", "true") }, codes.PermissionDenied},
		{"who knows", func() error { n.allow(errors.New("no /proc")); return first("workload.spiffe.io", "true") }, codes.Unavailable},
		{"a token for nobody", func() error { n.allow(nil); return token(&workload.JWTSVIDRequest{Audience: []string{"a"}}) }, codes.PermissionDenied},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := test.ask(); status.Code(err) != test.want {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

// TestRightsLost: the stream of a workload whose entry goes ends, and that of one whose entry grows gets the rest.
func TestRightsLost(t *testing.T) {
	n := newNode(t)
	n.publish(t, 1)
	n.issue(t, order)
	n.issue(t, payment)
	c, ctx := n.raw(t, "workload.spiffe.io", "true")
	stream, err := c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ids := func() []string {
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, s := range answer.GetSvids() {
			out = append(out, s.GetSpiffeId())
		}
		return out
	}
	if got := ids(); !slices.Equal(got, []string{order}) {
		t.Errorf("first %v", got)
	}
	n.allow(nil, mustID(t, order), mustID(t, payment))
	if got := ids(); !slices.Equal(got, []string{order, payment}) {
		t.Errorf("then %v", got)
	}
	n.allow(nil)
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("at last %v", err)
	}
}

// TestNoChangeNoMessage: what is put into the vault again and is the same wakes nobody.
func TestNoChangeNoMessage(t *testing.T) {
	n := newNode(t)
	n.publish(t, 1)
	n.issue(t, order)
	c, ctx := n.raw(t, "workload.spiffe.io", "true")
	stream, err := c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	n.publish(t, 2) // another version of the same roots
	renewed := n.issue(t, order)
	answer, err := stream.Recv()
	if err != nil || !slices.Equal(answer.GetSvids()[0].GetX509Svid(), renewed.Raw) {
		t.Errorf("the next message is not the renewal: %v", err)
	}
}
