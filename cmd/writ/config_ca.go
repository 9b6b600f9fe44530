package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// Bounds of the configuration of the certificate authority.
const (
	leastCertificateTTL = 10 * time.Second // for drills
	mostCertificateTTL  = 90 * 24 * time.Hour
	leastIssuerTTL      = time.Minute
	mostRootTTL         = 30 * 365 * 24 * time.Hour
	mostGrace           = 30 * 24 * time.Hour
	mostTokenAge        = 366 * 24 * time.Hour
	mostCalls           = 1 << 20
	mostTimeout         = time.Minute
	mostNames           = 32
)

// storeConfig says where the ledger is when it is not a file under state.
type storeConfig struct {
	Postgres *postgresConfig `yaml:"postgres"`
}

type postgresConfig struct {
	DSNFile string `yaml:"dsn_file" rel:"file"`
}

// caConfig switches the certificate authority on.
type caConfig struct {
	Listen          string                `yaml:"listen"`
	Names           []string              `yaml:"names"` // what agents dial: DNS names and IP addresses
	DefaultTTL      time.Duration         `yaml:"default_ttl"`
	MaxTTL          time.Duration         `yaml:"max_ttl"`
	IntermediateTTL time.Duration         `yaml:"intermediate_ttl"`
	RootTTL         time.Duration         `yaml:"root_ttl"`
	CRLTTL          time.Duration         `yaml:"crl_ttl"`
	AllowP521       bool                  `yaml:"allow_p521"`
	AllowEd25519    bool                  `yaml:"allow_ed25519"`
	Replica         string                `yaml:"replica"`
	KeyEncryption   *keyEncryptionConfig  `yaml:"key_encryption"`
	Plugged         *pluggedConfig        `yaml:"plugged"`
	Attest          *attestConfig         `yaml:"attest"`
	JWT             *jwtSVIDConfig        `yaml:"jwt"`
	BundleEndpoint  *bundleEndpointConfig `yaml:"bundle_endpoint" short:"listen"`
	Limits          limitsConfig          `yaml:"limits"`
	DrainTimeout    time.Duration         `yaml:"drain_timeout"`
}

// keyEncryptionConfig says where the passphrase is that private keys are encrypted with. One of the two is set.
type keyEncryptionConfig struct {
	PassphraseFile string `yaml:"passphrase_file" rel:"file"`
	Credential     string `yaml:"credential"` // name of a systemd credential
}

// pluggedConfig names a certificate authority that somebody else runs.
type pluggedConfig struct {
	Dir    string        `yaml:"dir" rel:"file"`
	PKCS11 *pkcs11Config `yaml:"pkcs11"`
}

// pkcs11Config names a key in a device.
type pkcs11Config struct {
	Module  string `yaml:"module"`
	Token   string `yaml:"token"`
	Label   string `yaml:"label"`
	PINFile string `yaml:"pin_file" rel:"file"`
}

// attestConfig says which proofs of identity are accepted.
type attestConfig struct {
	OIDC       []oidcConfig      `yaml:"oidc"`
	JWKS       jwksConfig        `yaml:"jwks"` // how the keys of oidc are fetched
	ClientCert *clientCertConfig `yaml:"client_cert"`
	JoinToken  *joinTokenConfig  `yaml:"join_token"`
}

type oidcConfig struct {
	Issuer    string        `yaml:"issuer"`
	Audiences []string      `yaml:"audiences"`
	JWKSFile  string        `yaml:"jwks_file" rel:"file"`
	JWKSURL   string        `yaml:"jwks_url"`
	MaxAge    time.Duration `yaml:"max_age"`
}

type clientCertConfig struct {
	Grace time.Duration `yaml:"grace"` // how long after its end a certificate still proves its caller
}

type joinTokenConfig struct {
	TTL time.Duration `yaml:"ttl"` // of a token for which nobody says
}

type limitsConfig struct {
	Timeout     time.Duration `yaml:"timeout"`
	Concurrent  int           `yaml:"concurrent"`
	Connections int           `yaml:"connections"`
	Rate        int           `yaml:"rate"` // calls a second by one identity at one address
	Burst       int           `yaml:"burst"`
}

// defaults fills the block before what the file says of it is read.
func (c *caConfig) defaults() {
	*c = caConfig{
		Listen:          "127.0.0.1:8081",
		DefaultTTL:      time.Hour,
		MaxTTL:          24 * time.Hour,
		IntermediateTTL: 30 * 24 * time.Hour,
		RootTTL:         10 * 365 * 24 * time.Hour,
		CRLTTL:          24 * time.Hour,
		Replica:         "main",
		Limits: limitsConfig{
			Timeout: caserver.DefaultTimeout, Concurrent: caserver.DefaultMaxConcurrent, Connections: caserver.DefaultMaxConnections,
			Rate: caserver.DefaultRate, Burst: caserver.DefaultBurst,
		},
		DrainTimeout: caserver.DefaultDrainTimeout,
	}
}

// defaults fills the block before what the file says of it is read.
func (a *attestConfig) defaults() {
	a.JWKS = jwksConfig{Refresh: 20 * time.Minute, MaxStale: 24 * time.Hour}
}

// defaults fills the block before what the file says of it is read.
func (j *joinTokenConfig) defaults() { j.TTL = caserver.DefaultTokenTTL }

// attest is which proofs are accepted. Without the block these are the two that let nobody in whom the operator did not:
// join tokens, and the certificates that followed from them.
func (c *caConfig) attest() *attestConfig {
	if c.Attest != nil {
		return c.Attest
	}
	a := &attestConfig{ClientCert: &clientCertConfig{}, JoinToken: &joinTokenConfig{}}
	a.defaults()
	a.JoinToken.defaults()
	return a
}

// names are the server's names, those it was given or else those that follow from where it listens.
func (c *caConfig) names() (dns []string, ips []netip.Addr, err error) {
	given := c.Names
	if len(given) == 0 {
		given = c.ownNames()
	}
	if len(given) == 0 {
		return nil, nil, fmt.Errorf("missing: %s does not say what agents dial: list the DNS names and IP addresses", c.Listen)
	}
	if len(given) > mostNames {
		return nil, nil, fmt.Errorf("%d names: want at most %d", len(given), mostNames)
	}
	for _, name := range given {
		if ip, err := netip.ParseAddr(name); err == nil {
			if ip.Zone() != "" || ip.Is4In6() {
				return nil, nil, fmt.Errorf("%q: want an address without a zone, IPv4 as IPv4", name)
			}
			ips = append(ips, ip)
			continue
		}
		if !isDNSName(name) {
			return nil, nil, fmt.Errorf("%q: want a DNS name in lower case, or an IP address", name)
		}
		dns = append(dns, name)
	}
	return dns, ips, nil
}

// ownNames are what the address itself tells. Istio's agents expect the last name whenever they dial localhost.
func (c *caConfig) ownNames() []string {
	host, _, _ := net.SplitHostPort(c.Listen)
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "localhost" || err == nil && ip.IsLoopback():
		names := []string{"localhost", "127.0.0.1", "::1", "istiod.istio-system.svc"}
		if err == nil && !slices.Contains(names, ip.String()) {
			names = append(names, ip.Unmap().String())
		}
		return names
	case err == nil && !ip.IsUnspecified():
		return []string{host}
	case err != nil && host != "":
		return []string{host}
	}
	return nil
}

// isDNSName reports whether s is a host name in lower case (RFC 1123 §2.1).
func isDNSName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// ledger is the path of the SQLite ledger.
func (c *config) ledger() string { return filepath.Join(c.State, "ledger.db") }

// postgres is how to reach the shared ledger, nil if it is a file.
func (c *config) postgres() *postgresConfig {
	if c.Store == nil {
		return nil
	}
	return c.Store.Postgres
}

// keyring opens what keeps private keys at rest.
func (c *caConfig) keyring(env func(string) (string, bool)) (*ca.Keyring, error) {
	k := c.KeyEncryption
	if k == nil {
		return ca.InsecureKeyring(), nil
	}
	file := k.PassphraseFile
	if k.Credential != "" {
		dir, ok := env("CREDENTIALS_DIRECTORY") // systemd.exec(5), LoadCredential=
		if !ok || dir == "" {
			return nil, fmt.Errorf("credential %q: systemd passes no credentials: add LoadCredential=%s:… to the unit", k.Credential, k.Credential)
		}
		file = filepath.Join(dir, k.Credential)
	}
	passphrase, err := ca.ReadPassphrase(file)
	if err != nil {
		return nil, err
	}
	return ca.NewKeyring(passphrase)
}

// checkCA looks at what the certificate authority needs.
func (d *configDecoder) checkCA(c *config) {
	a := c.CA
	if _, err := spiffeid.TrustDomain(c.TrustDomain); err != nil {
		d.bad("trust_domain", "%v", err)
	}
	d.checkStore(c)
	d.checkCAListen(a)
	d.checkLives(a)
	if r := a.Replica; r == "" || len(r) > 64 || !isDNSName(r) {
		d.bad("ca.replica", "%q: want a name of at most 64 lower-case letters, digits and inner dashes", r)
	}
	d.checkKeys(c)
	d.checkLimits(a.Limits)
	d.checkFederation(a)
	if a.DrainTimeout <= 0 || a.DrainTimeout > maxDrainTimeout {
		d.bad("ca.drain_timeout", "%v: want more than 0s and at most %v", a.DrainTimeout, maxDrainTimeout)
	}
	if a.Attest != nil {
		d.checkAttest(a.Attest)
	}
}

func (d *configDecoder) checkStore(c *config) {
	switch p := c.postgres(); {
	case c.Store != nil && p == nil:
		d.bad("store", "postgres is missing: without the whole block the ledger is a file under state")
	case p != nil && p.DSNFile == "":
		d.bad("store.postgres", "dsn_file is missing: name a file, mode 0600, that holds the connection string")
	case p == nil && c.State == "":
		d.bad("state", "missing: name the directory for keys and ledger, such as ./state")
	}
}

func (d *configDecoder) checkCAListen(a *caConfig) {
	address, err := parseAddress(a.Listen)
	switch {
	case err != nil:
		d.bad("ca.listen", "%v", err)
	case address.network != "tcp":
		d.bad("ca.listen", "%q: agents speak TLS over TCP to it: want host:port, such as 127.0.0.1:8081", a.Listen)
	default:
		if _, _, err := a.names(); err != nil {
			d.bad("ca.names", "%v", err)
		}
	}
}

func (d *configDecoder) checkLives(a *caConfig) {
	for _, l := range []struct {
		key         string
		value       time.Duration
		least, most time.Duration
	}{
		{"ca.max_ttl", a.MaxTTL, leastCertificateTTL, mostCertificateTTL},
		{"ca.default_ttl", a.DefaultTTL, leastCertificateTTL, a.MaxTTL},
		{"ca.root_ttl", a.RootTTL, leastIssuerTTL, mostRootTTL},
		{"ca.intermediate_ttl", a.IntermediateTTL, leastIssuerTTL, a.RootTTL},
		{"ca.crl_ttl", a.CRLTTL, leastIssuerTTL, mostCertificateTTL},
	} {
		if l.value < l.least || l.value > l.most || l.value%time.Second != 0 {
			d.bad(l.key, "%v: want whole seconds, %v to %v", l.value, l.least, l.most)
		}
	}
}

func (d *configDecoder) checkKeys(c *config) {
	a := c.CA
	if k := a.KeyEncryption; k != nil {
		switch {
		case (k.PassphraseFile == "") == (k.Credential == ""):
			d.bad("ca.key_encryption", "want one of passphrase_file and credential")
		case strings.ContainsAny(k.Credential, "/\x00"):
			d.bad("ca.key_encryption.credential", "%q: want the name of a systemd credential, without a slash", k.Credential)
		}
	} else if c.postgres() != nil {
		d.bad("ca.key_encryption", "missing: keys in a database are encrypted: name a passphrase_file or a systemd credential")
	}
	p := a.Plugged
	if p == nil {
		return
	}
	if p.Dir == "" {
		d.bad("ca.plugged", "dir is missing: name the directory with ca-cert.pem, ca-key.pem, root-cert.pem and cert-chain.pem, or tls.crt, tls.key and ca.crt")
	}
	if k := p.PKCS11; k != nil && (k.Module == "" || k.Token == "" || k.Label == "" || k.PINFile == "") {
		d.bad("ca.plugged.pkcs11", "want module, token, label and pin_file")
	}
}

func (d *configDecoder) checkLimits(l limitsConfig) {
	if l.Timeout <= 0 || l.Timeout > mostTimeout {
		d.bad("ca.limits.timeout", "%v: want more than 0s and at most %v", l.Timeout, mostTimeout)
	}
	for _, n := range []struct {
		key   string
		value int
	}{
		{"ca.limits.concurrent", l.Concurrent}, {"ca.limits.connections", l.Connections}, {"ca.limits.rate", l.Rate}, {"ca.limits.burst", l.Burst},
	} {
		if n.value < 1 || n.value > mostCalls {
			d.bad(n.key, "%d: want 1 to %d", n.value, mostCalls)
		}
	}
}

func (d *configDecoder) checkAttest(a *attestConfig) {
	if a.ClientCert == nil && a.JoinToken == nil && len(a.OIDC) == 0 {
		d.bad("ca.attest", "nobody could prove who it is: want oidc, client_cert or join_token, or leave attest out")
	}
	if a.ClientCert != nil && (a.ClientCert.Grace < 0 || a.ClientCert.Grace > mostGrace) {
		d.bad("ca.attest.client_cert.grace", "%v: want 0s to %v", a.ClientCert.Grace, mostGrace)
	}
	if a.JoinToken != nil && (a.JoinToken.TTL < time.Second || a.JoinToken.TTL > caserver.MaxTokenTTL) {
		d.bad("ca.attest.join_token.ttl", "%v: want 1s to %v", a.JoinToken.TTL, caserver.MaxTokenTTL)
	}
	d.checkJWKS("ca.attest.jwks", &a.JWKS)
	seen := map[string]bool{}
	for i := range a.OIDC {
		key := fmt.Sprintf("ca.attest.oidc[%d]", i)
		if err := a.OIDC[i].check(); err != nil {
			d.bad(key, "%v", err)
		} else if seen[a.OIDC[i].Issuer] {
			d.bad(key, "issuer %s is named twice", a.OIDC[i].Issuer)
		}
		seen[a.OIDC[i].Issuer] = true
	}
}

func (o *oidcConfig) check() error {
	switch {
	case o.Issuer == "":
		return errors.New("issuer is missing: want the iss claim of its tokens")
	case len(o.Audiences) == 0 || slices.Contains(o.Audiences, ""):
		return errors.New("audiences is missing: want at least one, such as istio-ca: without, a token meant for anybody else would do")
	case o.JWKSFile != "" && o.JWKSURL != "":
		return errors.New("jwks_file and jwks_url: want one of them, or neither to ask the issuer's discovery document")
	case o.MaxAge < 0 || o.MaxAge > mostTokenAge:
		return fmt.Errorf("max_age %v: want 0s, for %v, to %v", o.MaxAge, attest.DefaultMaxTokenAge, mostTokenAge)
	}
	return nil
}

// profiles are what certificates look like: those of workloads, and the server's own, which lives no longer than theirs, so
// that a rotation never waits for it alone.
func (c *caConfig) profiles(domain spiffeid.ID) (workload, server *ca.Profile, err error) {
	workload, err = ca.NewProfile(ca.ProfileConfig{
		TrustDomain: domain, DefaultTTL: c.DefaultTTL, MaxTTL: c.MaxTTL, AllowP521: c.AllowP521, AllowEd25519: c.AllowEd25519,
	})
	if err != nil {
		return nil, nil, err
	}
	server, err = ca.NewProfile(ca.ProfileConfig{Name: "server", TrustDomain: domain, DefaultTTL: c.DefaultTTL, MaxTTL: c.MaxTTL})
	return workload, server, err
}

// oidc says which service account tokens prove a caller, nil if none do.
func (c *caConfig) oidc(domain spiffeid.ID) (*attest.OIDCConfig, error) {
	a := c.attest()
	if len(a.OIDC) == 0 {
		return nil, nil
	}
	sources, err := a.JWKS.sources()
	if err != nil {
		return nil, err
	}
	o := &attest.OIDCConfig{TrustDomain: domain, Sources: sources}
	for _, i := range a.OIDC {
		o.Issuers = append(o.Issuers, attest.Issuer{
			Issuer: i.Issuer, Audiences: i.Audiences, JWKSFile: i.JWKSFile, JWKSURI: i.JWKSURL, MaxAge: cmp.Or(i.MaxAge, attest.DefaultMaxTokenAge),
		})
	}
	return o, nil
}

// readSecret reads a small file that others may not read, without the line end.
func readSecret(what, file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s %s: mode %04o lets others read it: chmod 600 %s", what, file, mode.Perm(), file)
	}
	data, err := readBounded(file, 16<<10)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}

// checkCAFiles reads the files that the certificate authority needs, but for the state: whatever is wrong, by key.
func (c *config) checkCAFiles(ctx context.Context, env func(string) (string, bool)) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		checks := []struct {
			key   string
			check func() error
		}{
			{"ca.key_encryption", func() error { _, err := c.CA.keyring(env); return err }},
			{"ca.attest.oidc", c.checkIssuers},
			{"ca.plugged", func() error {
				if c.CA.Plugged == nil {
					return nil
				}
				return c.checkPlugged(ctx)
			}},
			{"store.postgres", func() error {
				if p := c.postgres(); p != nil {
					_, err := readSecret("dsn_file", p.DSNFile)
					return err
				}
				return nil
			}},
		}
		for _, f := range checks {
			if err := f.check(); err != nil && !yield(f.key, err) {
				return
			}
		}
	}
}

// checkIssuers reads the key files of issuers of tokens.
func (c *config) checkIssuers() error {
	domain, err := spiffeid.TrustDomain(c.TrustDomain)
	if err != nil {
		return err
	}
	cfg, err := c.CA.oidc(domain)
	if err == nil && cfg != nil {
		_, err = attest.NewOIDC(*cfg)
	}
	return err
}
