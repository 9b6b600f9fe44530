package bootstrap_test

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/internal/bootstrap"
	"github.com/writ-auth/writ/policy"
)

var update = flag.Bool("update", false, "write the golden files anew")

// config is a workload of the coffee shop with everything else at its default.
func config(t *testing.T, app string) bootstrap.Config {
	t.Helper()
	data, err := os.ReadFile("testdata/documents.yaml")
	if err != nil {
		t.Fatal(err)
	}
	mesh := policy.Mesh{TrustDomain: "cluster.local", RootNamespace: "istio-system"}
	snap := policy.NewSnapshot(policy.Decode("documents.yaml", data), mesh)
	for _, p := range snap.Problems() {
		if p.Severity == policy.SeverityError {
			t.Fatal(p)
		}
	}
	return bootstrap.Config{
		Snapshot: snap, Mesh: mesh,
		Workload: policy.Workload{Namespace: "coffee-shop", Name: app, Labels: map[string]string{"app": app}},
		Bind:     netip.IPv4Unspecified(),
		Proxy: bootstrap.Proxy{
			SDS: address(t, "unix:///run/writ/agent.sock"), Authz: address(t, "127.0.0.1:9191"), Admin: address(t, "127.0.0.1:15000"),
			SystemRoots: "/etc/writ/credentials/system.pem", MaxConnections: 50000,
		},
	}
}

func address(t *testing.T, s string) bootstrap.Address {
	t.Helper()
	a, err := bootstrap.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (b *builder) inbound(all ...string) *builder {
	for _, s := range all {
		in, err := bootstrap.ParseInbound(s)
		if err != nil {
			b.t.Fatal(err)
		}
		b.Inbound = append(b.Inbound, in)
	}
	return b
}

func (b *builder) upstream(all ...string) *builder {
	for _, s := range all {
		u, err := bootstrap.ParseUpstream(s, b.Mesh.TrustDomain)
		if err != nil {
			b.t.Fatal(err)
		}
		b.Upstreams = append(b.Upstreams, u)
	}
	return b
}

func (b *builder) route(all ...string) *builder {
	for _, s := range all {
		r, err := bootstrap.ParseRoute(s)
		if err != nil {
			b.t.Fatal(err)
		}
		b.Routes = append(b.Routes, r)
	}
	return b
}

func (b *builder) gateway(names ...string) *builder {
	b.Gateways, b.Proxy.Credentials = names, "/etc/writ/credentials"
	return b
}

// builder is a Config in the making.
type builder struct {
	bootstrap.Config
	t *testing.T
}

func of(t *testing.T, app string) *builder { t.Helper(); return &builder{config(t, app), t} }

// TestGolden holds the bootstraps of typical workloads to the files in testdata, comments included. The end-to-end tests
// have Envoy validate those files.
func TestGolden(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		make     func(*testing.T) *builder
		warnings []string // part of each
	}{
		"strict": {make: func(t *testing.T) *builder { return of(t, "order-service").inbound("8080:9080") }},
		"modes": {make: func(t *testing.T) *builder {
			b := of(t, "payment-service").inbound("8080:9080:http2", "8081:9080", "8082:9082:grpc", "3305:13306:tcp", "3306:13306:tcp", "3307:13306:tcp")
			b.Mesh.TrustDomainAliases = []string{"old.local"}
			b.Workload.ServiceAccount = "payment-service"
			return b
		}},
		"upstreams": {make: func(t *testing.T) *builder {
			return of(t, "order-service").upstream(
				"payment:8080,identity=coffee-shop/payment-service,address=10.0.0.7:8080,address=10.0.0.8:8080,listen=15001",
				"inventory:8081,identity=coffee-shop/inventory-service,identity=spiffe://old.local/ns/coffee-shop/sa/inventory,protocol=grpc",
				"printer:8082", "api.bank.example:443,listen=15443,protocol=http2", "weather.example:443,listen=15444", "fax.example:443,listen=15445,protocol=tcp",
				"mail.example:443,listen=15446,protocol=tcp", "safe.example:443,listen=15447", "menu.example:80,listen=15080", "box.legacy.svc.cluster.local:80,identity=legacy/box,listen=15081,protocol=tcp",
			).credentials()
		}, warnings: []string{"menu.example:80: no DestinationRule", "fax.example:443: DestinationRule coffee-shop/fax says insecureSkipVerify"}},
		"tokens": {make: func(t *testing.T) *builder {
			b := of(t, "customer-service").inbound("8080:9080", "8081:9081")
			b.Proxy.MetadataJWT, b.Proxy.RawPaths = true, true
			b.Proxy.Authz, b.Proxy.AuthzCA = address(t, "writ.example:9191"), "/etc/writ/credentials/system.pem"
			b.Proxy.Admin = bootstrap.Address{}
			return b
		}},
		"gateway": {make: func(t *testing.T) *builder {
			b := of(t, "front").gateway("coffee-shop/front").upstream(
				"order:8080,identity=coffee-shop/order-service,listen=none", "staff:8081,identity=coffee-shop/staff,listen=none",
				"vault.bank.example.com:443,protocol=tcp,listen=none",
			).route("shop.example.com=order:8080", "menu.example.com=order:8080", "partners.example.com=order:8080", "staff.example.com=staff:8081",
				"vault.bank.example.com=vault.bank.example.com:443")
			b.Proxy.TrustedHops = 1
			b.Proxy.Authz = address(t, "unix:///run/writ/authz.sock")
			return b
		}, warnings: []string{"vault.bank.example.com:443: no DestinationRule"}},
		"gateway-mesh": {make: func(t *testing.T) *builder {
			return of(t, "front").gateway("coffee-shop/mesh").upstream("order:8080,identity=coffee-shop/order-service,listen=none")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			made, err := bootstrap.New(tc.make(t).Config)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".golden.yaml")
			if *update {
				if err := os.WriteFile(file, made.YAML, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v; go test ./internal/bootstrap -update writes it", err)
			}
			if diff := cmp.Diff(string(want), string(made.YAML)); diff != "" {
				t.Errorf("%s (-want +got; go test ./internal/bootstrap -update):\n%s", file, diff)
			}
			if len(made.Warnings) != len(tc.warnings) {
				t.Errorf("warnings %q, want %q", made.Warnings, tc.warnings)
			}
			for _, want := range tc.warnings {
				if !strings.Contains(strings.Join(made.Warnings, "\n"), want) {
					t.Errorf("warnings %q, want %q", made.Warnings, want)
				}
			}
		})
	}
}

func (b *builder) credentials() *builder {
	b.Proxy.Credentials = "/etc/writ/credentials"
	return b
}

// TestRefused: what cannot be meant, and what a document asks for and cannot be had.
func TestRefused(t *testing.T) {
	t.Parallel()
	const option, document = "option", "document"
	for name, tc := range map[string]struct {
		make func(*testing.T) *builder
		kind string
		want string
	}{
		"nothing":        {func(t *testing.T) *builder { return of(t, "order-service") }, option, "inbound: is missing"},
		"port twice":     {func(t *testing.T) *builder { return of(t, "order-service").inbound("8080:9080", "8080:9081") }, option, "inbound: port 8080 is wanted by inbound 8080:9080 and by inbound 8080:9081"},
		"admin's port":   {func(t *testing.T) *builder { return of(t, "order-service").inbound("15000:9080") }, option, "the admin interface"},
		"upstream twice": {func(t *testing.T) *builder { return of(t, "order-service").upstream("a.b:80", "a.b:80,listen=81") }, option, "upstream: a.b:80 is given twice"},
		"two upstreams on one port": {func(t *testing.T) *builder { return of(t, "order-service").upstream("a.b:8080", "c.d:8080") }, option,
			"upstream: port 8080 is wanted by upstream a.b:8080 and by upstream c.d:8080"},
		"labels unknown": {func(t *testing.T) *builder { b := of(t, "x").inbound("1:2"); b.Workload.Labels = nil; return b }, "", "labels"},
		"network SDS": {func(t *testing.T) *builder {
			b := of(t, "x").inbound("1:2")
			b.Proxy.SDS = address(t, "10.0.0.1:9000")
			return b
		}, option, "sds: 10.0.0.1:9000: want a Unix socket"},
		"plaintext to another machine's writ": {func(t *testing.T) *builder {
			b := of(t, "x").inbound("1:2")
			b.Proxy.Authz = address(t, "10.0.0.1:9191")
			return b
		}, option, "authz-ca: is missing: --authz 10.0.0.1:9191"},
		"open admin": {func(t *testing.T) *builder {
			b := of(t, "x").inbound("1:2")
			b.Proxy.Admin = address(t, "0.0.0.0:15000")
			return b
		}, option, "envoy-admin: 0.0.0.0:15000: want a loopback"},
		"no connections":           {func(t *testing.T) *builder { b := of(t, "x").inbound("1:2"); b.Proxy.MaxConnections = 0; return b }, option, "max-connections: 0"},
		"too many ports":           {func(t *testing.T) *builder { b := of(t, "x"); b.Inbound = make([]bootstrap.Inbound, 1000); return b }, option, "at most 256"},
		"a gateway has no modes":   {func(t *testing.T) *builder { return of(t, "front").inbound("8080:9080") }, option, "no PeerAuthentication governs"},
		"sidecar and gateway":      {func(t *testing.T) *builder { return of(t, "front").inbound("1:2").gateway("coffee-shop/front") }, option, "print two bootstraps"},
		"route without gateway":    {func(t *testing.T) *builder { return of(t, "x").inbound("1:2").route("a=b:1") }, option, "route: a=b:1 is for a gateway"},
		"not its gateway":          {func(t *testing.T) *builder { return of(t, "order-service").gateway("coffee-shop/front") }, option, `does not select coffee-shop/order-service with labels "app=order-service"; those that do: none`},
		"gateway without upstream": {func(t *testing.T) *builder { return of(t, "front").gateway("coffee-shop/mesh") }, option, "route: is missing"},
		"route to nobody":          {func(t *testing.T) *builder { return of(t, "front").gateway("coffee-shop/mesh").route("*=order:1") }, option, "there is no --upstream order:1"},
		"a server without its route": {func(t *testing.T) *builder {
			return of(t, "front").gateway("coffee-shop/front").upstream("order:1,listen=none").route("x.org=order:1")
		}, option, "port 80: none is for any of its hosts"},
		"gateway without credentials": {func(t *testing.T) *builder {
			b := of(t, "front").gateway("coffee-shop/front").upstream("order:1,listen=none")
			b.Proxy.Credentials = ""
			return b
		}, option, `credentials: is missing: credentialName "shop"`},
		"ISTIO_MUTUAL with whom": {func(t *testing.T) *builder { return of(t, "order-service").upstream("payment:8080") }, option, "identity=NAMESPACE/SERVICEACCOUNT"},

		"a credential that Istio would not use": {func(t *testing.T) *builder { return of(t, "order-service").credentials().upstream("vault.example:443") }, document, "would send plaintext"},
		"AUTO_PASSTHROUGH": {func(t *testing.T) *builder {
			return of(t, "front").gateway("coffee-shop/faulty").upstream("order:1,listen=none")
		}, document, "AUTO_PASSTHROUGH"},
		"TLS 1.0": {func(t *testing.T) *builder {
			return of(t, "front").gateway("coffee-shop/old").upstream("order:1,listen=none")
		}, document, "nothing older than TLS 1.2"},
		"anybody's certificates": {func(t *testing.T) *builder {
			return of(t, "front").gateway("coffee-shop/lax").upstream("order:1,listen=none")
		}, document, "insecureSkipVerify"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			made, err := bootstrap.New(tc.make(t).Config)
			if err == nil {
				t.Fatalf("made\n%s", made.YAML)
			}
			var o *bootstrap.OptionError
			var d *bootstrap.DocumentError
			kind := ""
			switch {
			case errors.As(err, &o):
				kind = option
			case errors.As(err, &d):
				kind = document
			}
			if kind != tc.kind || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s error %v, want %s error with %q", kind, err, tc.kind, tc.want)
			}
		})
	}
}

// TestParseRefused: every flag says what is wrong with its value.
func TestParseRefused(t *testing.T) {
	t.Parallel()
	inbound := func(s string) error { _, err := bootstrap.ParseInbound(s); return err }
	upstream := func(s string) error { _, err := bootstrap.ParseUpstream(s, "cluster.local"); return err }
	route := func(s string) error { _, err := bootstrap.ParseRoute(s); return err }
	at := func(s string) error { _, err := bootstrap.ParseAddress(s); return err }
	for _, tc := range []struct {
		parse func(string) error
		value string
		want  string
	}{
		{inbound, "", "PORT:APP"},
		{inbound, "8080", "PORT:APP"},
		{inbound, "8080:9080:http:x", "PORT:APP"},
		{inbound, "0:9080", "not a port"},
		{inbound, "8080:65536", "not a port"},
		{inbound, "8080:8080", "cannot both have port 8080"},
		{inbound, "8080:9080:htp", "not a protocol"},
		{upstream, "", "HOST:PORT"},
		{upstream, "payment", "HOST:PORT"},
		{upstream, "unix:///x", "HOST:PORT"},
		{upstream, "pay ment:80", "HOST:PORT"},
		{upstream, "a\nb:80", "HOST:PORT"},
		{upstream, "payment:80,lisen=1", `"lisen"`},
		{upstream, "payment:80,listen=x", "listen=:"},
		{upstream, "payment:80,protocol=smtp", "protocol=:"},
		{upstream, "payment:80,address=10.0.0.1", "address=:"},
		{upstream, "payment:80,identity=payment", "identity=:"},
		{upstream, "payment:80,identity=spiffe://", "identity=:"},
		{upstream, "payment:80,identity=spiffe://td", "identity=:"},
		{upstream, "payment:80,identity=spiffe://td/a?b", "identity=:"},
		{upstream, "payment:80,identity=a/b/c", "identity=:"},
		{route, "x", "HOST=UPSTREAM"},
		{route, "a b=order:1", "not a host"},
		{route, "**=order:1", "not a host"},
		{route, "a=order", "--upstream"},
		{at, "", "host:port"},
		{at, "unix:agent.sock", "absolute path"},
		{at, "unix:///", "absolute path"},
		{at, ":80", "host:port"},
		{at, "host:0", "not a port"},
		{at, "a/b:1", "neither an address nor a host name"},
	} {
		if err := tc.parse(tc.value); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: error %v, want %q", tc.value, err, tc.want)
		}
	}
}

// TestDocumentsCannotWriteYAML: what documents and flags contribute stays a value, or a comment, whatever is in it.
func TestDocumentsCannotWriteYAML(t *testing.T) {
	t.Parallel()
	b := of(t, "order-service").inbound("8080:9080")
	b.Workload.Name = "x\nadmin: {}\n# y"
	b.Workload.ServiceAccount = "true"
	made, err := bootstrap.New(b.Config)
	if err != nil {
		t.Fatal(err)
	}
	text := string(made.YAML)
	if strings.Contains(text, "\nadmin: {}") || !strings.Contains(text, `writ.service_account: 'true'`) {
		t.Errorf("a name became YAML:\n%s", text)
	}
}
