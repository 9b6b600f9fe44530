package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

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
