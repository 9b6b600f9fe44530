package main

import (
	"cmp"
	"fmt"
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
