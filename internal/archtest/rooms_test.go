package archtest_test

import (
	"strings"
)

const module = "github.com/writ-auth/writ"

// rooms says for every package which others of ours it may reach, directly or through others. A package that is not
// here fails the test until somebody decides where it belongs. Packages that do not exist yet are listed so that the
// rule is there before the first file.
//
// The two halves, deciding (authz, policy, jwt) and identity (ca, sds), meet only in cmd: what one needs of the other
// crosses as a small interface declared by whoever needs it.
func rooms() map[string][]string {
	return map[string][]string{
		"policy":          {},
		"policy/analysis": {"policy"},
		"jwt":             {},

		"authz":              {"policy", "jwt"},
		"authz/extauthz":     {"authz", "policy", "jwt", grpcserve},
		"authz/provider":     {"authz", "policy", "jwt"},
		"authz/provider/opa": {"authz", "authz/provider", "policy", "jwt"},

		"ca":          {durable, spiffeid},
		"ca/pkcs11":   {"ca", durable, spiffeid},
		"ca/attest":   {"ca", "jwt", durable, spiffeid, unixpeer},
		"ca/store":    {"ca", durable, spiffeid},
		"ca/caserver": {"ca", "ca/attest", "jwt", durable, grpcserve, spiffeid, unixpeer},

		"sds":             {durable, grpcserve, spiffeid, unixpeer},
		"sds/workloadapi": {"sds", durable, grpcserve, spiffeid, unixpeer},
		"sds/agent":       {"sds", "sds/workloadapi", durable, grpcserve, spiffeid, unixpeer},

		"internal/kube":             {"policy", "ca/attest", "jwt", spiffeid, unixpeer},
		"internal/durable":          {},
		"internal/grpcserve":        {},
		"internal/spiffeid":         {},
		"internal/unixpeer":         {},
		"internal/bootstrap":        {"policy"},
		"internal/policytest":       {"authz", "authz/extauthz", "policy", "jwt", grpcserve},
		"internal/replay":           {"authz", "authz/extauthz", "policy", "jwt", grpcserve},
		"internal/telemetry":        {"authz", "policy", "jwt"}, // the decision log writes decisions
		"internal/testkit":          {anything},
		"internal/testkit/memstore": {anything},
		"internal/testkit/otherend": {},
		"internal/archtest":         {},

		"cmd/writ": {anything},
		"deploy":   {},

		"test/bench":        {anything},
		"test/bench/check":  {anything},
		"test/bench/custom": {anything},
		"test/bench/sds":    {anything},
		"test/coffeeshop":   {anything},
		"test/conformance":  {anything},
		"test/e2e":          {anything},
	}
}

const (
	anything  = "*"
	durable   = "internal/durable"
	grpcserve = "internal/grpcserve"
	spiffeid  = "internal/spiffeid"
	unixpeer  = "internal/unixpeer"
)

// isTestHelper reports whether a package exists for tests and demonstrations only: production never reaches it.
func isTestHelper(pkg string) bool {
	return strings.HasPrefix(pkg, "test/") || pkg == "internal/testkit" || strings.HasPrefix(pkg, "internal/testkit/") || pkg == "internal/archtest"
}

// foreign is a library, or a family of them, with the few places that may import it.
type foreign struct {
	name    string
	matches func(importPath string) bool
	pkgs    []string // our packages that may; what tests import is free unless tests is set
	file    string   // the one file name in which every package may, "" = none
	tests   bool     // the rule holds for test files and test helpers as well
}

func foreigners() []foreign {
	return []foreign{
		{name: "Kubernetes libraries", matches: under("k8s.io", "sigs.k8s.io"), pkgs: []string{"internal/kube"}, tests: true},
		{name: "Prometheus", matches: under("github.com/prometheus"), file: "metrics.go"},
		{name: "Envoy's auth API", matches: under(
			"github.com/envoyproxy/go-control-plane/envoy/service/auth", "github.com/envoyproxy/go-control-plane/envoy/config/rbac",
		), pkgs: []string{"authz/extauthz", "authz/provider", "authz/provider/opa"}},
		{name: "Envoy's secret API", matches: under("github.com/envoyproxy/go-control-plane/envoy/service/secret"), pkgs: []string{"sds", "sds/agent"}},
		{name: "SQL", matches: under(
			"database/sql", "github.com/jackc/pgx", "github.com/lib/pq", "modernc.org/sqlite", "github.com/mattn/go-sqlite3", "zombiezen.com/go/sqlite",
		), pkgs: []string{"ca/store"}},
	}
}

// under matches the given paths and everything below them.
func under(roots ...string) func(string) bool {
	return func(path string) bool {
		for _, r := range roots {
			if path == r || strings.HasPrefix(path, r+"/") {
				return true
			}
		}
		return false
	}
}

// pure are the packages that open no connection and read no clock: the same input, the same answer.
func pure() []string { return []string{"policy", "policy/analysis"} }

// watches reports whether a file of a pure package follows its source over time, which takes a clock.
func watches(file string) bool { return strings.HasPrefix(file, "directory") }

// impure are the calls and types that a pure package has no use for; imports alone say too little, because net also
// splits addresses and net/http also names status codes.
func impure() []string {
	return []string{
		"net.Dial", "net.DialTimeout", "net.DialTCP", "net.Dialer", "net.Listen", "net.ListenPacket", "net.Resolver", "net.LookupHost",
		"net.LookupIP", "net.LookupAddr", "net.LookupTXT", "http.Get", "http.Post", "http.Client", "http.DefaultClient", "http.NewRequest",
		"http.NewRequestWithContext", "http.Server", "http.ListenAndServe", "exec.Command", "exec.CommandContext", "time.Now",
		"time.Since", "time.Until", "time.Sleep", "rand.N", "rand.IntN", "rand.Int", "rand.Read", "os.Getenv", "os.LookupEnv", "os.Exit",
	}
}
