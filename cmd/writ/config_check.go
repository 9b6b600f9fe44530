package main

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of the configuration.
const (
	maxTrustedHops  = 64
	minRequestBytes = 4 << 10
	maxRequestBytes = 64 << 20
	maxDrainTimeout = 10 * time.Minute
	maxSocketPath   = 100 // bytes; the kernel takes 107, and a suffix is needed while the socket is made
)

// check looks at the meaning of a config whose types are right.
func (d *configDecoder) check(c *config) {
	d.checkMesh(c)
	if c.Documents == "" && (c.Authz != nil || c.CA == nil) {
		d.bad("documents", "missing: name the file or directory with the policies, such as ./policies")
	}
	d.checkCandidate(c)
	if c.Authz == nil && c.CA == nil {
		d.bad("authz", "missing, and ca as well: without both there is nothing to run; write \"authz: {}\" or \"ca: {}\" for the defaults")
	}
	if c.Authz != nil {
		d.checkAuthz(c.Authz)
		d.checkIdentities(c)
	}
	if c.CA != nil {
		d.checkCA(c)
	}
	if c.SDS != nil {
		d.checkSDS(c)
	}
	if c.Admin != "" {
		if a, err := parseAddress(c.Admin); err != nil {
			d.bad("admin", "%v", err)
		} else if a.network != "unix" {
			d.bad("admin", "%q: the admin interface has no password, so it is a Unix socket: write unix:///run/writ/admin.sock", c.Admin)
		}
	}
	d.checkDiagnostics(c.Diagnostics)
	d.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	d.oneOf("log.format", c.Log.Format, "text", "json")
	d.checkClashes(c)
}

// bad reports a problem with what a key means, unless its value could not even be read.
func (d *configDecoder) bad(key, format string, args ...any) {
	if slices.ContainsFunc(d.problems, func(p configProblem) bool { return p.Key == key || strings.HasPrefix(p.Key, key+"[") }) {
		return
	}
	place, ok := d.places[key]
	if !ok {
		place = configProblem{Source: d.file, Key: key}
	}
	d.problem(place, format, args...)
}

func (d *configDecoder) oneOf(key, value string, known ...string) {
	if !slices.Contains(known, value) {
		d.bad(key, "%q: want %s%s", value, strings.Join(known, ", "), didYouMean(value, known))
	}
}

func (d *configDecoder) checkMesh(c *config) {
	trustDomain := regexp.MustCompile(`^[a-z0-9._-]{1,255}$`) // SPIFFE-ID §2.1
	if !trustDomain.MatchString(c.TrustDomain) {
		d.bad("trust_domain", "%q: want lower-case letters, digits, dots, dashes and underscores", c.TrustDomain)
	}
	for i, alias := range c.TrustDomainAliases {
		if !trustDomain.MatchString(alias) {
			d.bad(fmt.Sprintf("trust_domain_aliases[%d]", i), "%q: want lower-case letters, digits, dots, dashes and underscores", alias)
		}
	}
	if !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`).MatchString(c.RootNamespace) {
		d.bad("root_namespace", "%q: want a Kubernetes namespace: lower-case letters, digits and inner dashes, at most 63", c.RootNamespace)
	}
}

func (d *configDecoder) checkAuthz(a *authzConfig) {
	address, err := parseAddress(a.Listen)
	switch {
	case err != nil:
		d.bad("authz.listen", "%v", err)
	case a.TLS == nil && !address.local():
		d.bad("authz.listen", "%q is open to the network and has no TLS: add authz.tls with cert, key and client_ca,"+
			" or listen on 127.0.0.1:9191 or a Unix socket", a.Listen)
	case a.TLS != nil && address.network == "unix":
		d.bad("authz.tls", "a Unix socket is guarded by its permissions: remove tls, or listen on host:port")
	}
	if a.TLS != nil && a.TLS.Cert == "" {
		d.bad("authz.tls", "cert is missing: name the PEM file with the server's certificate chain")
	}
	if a.TLS != nil && a.TLS.Key == "" {
		d.bad("authz.tls", "key is missing: name the PEM file with the certificate's private key")
	}
	if a.TrustedHops < 0 || a.TrustedHops > maxTrustedHops {
		d.bad("authz.trusted_hops", "%d: want 0 to %d", a.TrustedHops, maxTrustedHops)
	}
	d.oneOf("authz.paths", a.Paths, "base", "none")
	d.checkTokens(a)
	d.checkProviders(a)
	d.checkOverload(a)
	d.oneOf("authz.decision_log.log", a.DecisionLog.Log, "off", "denials", "all")
	if a.DecisionLog.To == "" {
		d.bad("authz.decision_log.to", "empty: want stdout, stderr or a file; to log nothing, set log: off")
	}
	if a.MaxRequestBytes < minRequestBytes || a.MaxRequestBytes > maxRequestBytes {
		d.bad("authz.max_request_bytes", "%d: want %d to %d", a.MaxRequestBytes, minRequestBytes, maxRequestBytes)
	}
	if a.DrainTimeout <= 0 || a.DrainTimeout > maxDrainTimeout {
		d.bad("authz.drain_timeout", "%v: want more than 0s and at most %v", a.DrainTimeout, maxDrainTimeout)
	}
}

func (d *configDecoder) checkDiagnostics(c diagnosticsConfig) {
	if c.Listen == "" {
		if c.Pprof {
			d.bad("diagnostics.pprof", "true, but diagnostics.listen is missing: write the address, such as 127.0.0.1:9402")
		}
		return
	}
	address, err := parseAddress(c.Listen)
	switch {
	case err != nil:
		d.bad("diagnostics.listen", "%v", err)
	case address.network != "tcp":
		d.bad("diagnostics.listen", "%q: want host:port, such as 127.0.0.1:9402", c.Listen)
	case c.Pprof && !address.local():
		d.bad("diagnostics.pprof", "true, but %s is open to the network and profiles show memory: listen on 127.0.0.1", c.Listen)
	}
}

// checkClashes refuses one address for two listeners, which the kernel would refuse with less to say.
func (d *configDecoder) checkClashes(c *config) {
	used := map[string]string{}
	listeners := [][2]string{{"admin", c.Admin}, {"diagnostics.listen", c.Diagnostics.Listen}}
	if c.Authz != nil {
		listeners = append([][2]string{{"authz.listen", c.Authz.Listen}}, listeners...)
	}
	if c.CA != nil {
		listeners = append(listeners, [2]string{"ca.listen", c.CA.Listen})
	}
	for _, l := range listeners {
		key, address := l[0], l[1]
		if address == "" || strings.HasSuffix(address, ":0") {
			continue
		}
		if other, taken := used[address]; taken {
			d.bad(key, "%s is the address of %s too: use another", address, other)
		}
		used[address] = key
	}
}

// address is where a listener listens.
type address struct {
	network string // tcp or unix
	address string // host:port or a path
}

func (a address) String() string {
	if a.network == "unix" {
		return "unix:" + a.address
	}
	return a.address
}

// parseAddress reads host:port, unix:///absolute/path or unix:relative/path.
func parseAddress(s string) (address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if rest, ok := strings.CutPrefix(path, "//"); ok {
			path = rest
			if !strings.HasPrefix(path, "/") {
				return address{}, fmt.Errorf("%q: a unix:// address has three slashes: unix:///%s; a path relative to the file is unix:%s", s, rest, rest)
			}
		}
		if path == "" {
			return address{}, fmt.Errorf("%q: the path of the socket is missing: unix:///run/writ/NAME.sock", s)
		}
		if len(path) > maxSocketPath {
			return address{}, fmt.Errorf("%q: the path of a Unix socket has at most %d bytes, this has %d", s, maxSocketPath, len(path))
		}
		return address{"unix", path}, nil
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return address{}, fmt.Errorf("%q: want host:port or unix:///path", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return address{}, fmt.Errorf("%q: want a port from 0 to 65535, not %q", s, port)
	} else if n == 0 && port != "0" {
		return address{}, fmt.Errorf("%q: want a port from 0 to 65535, not %q", s, port)
	}
	return address{"tcp", s}, nil
}

// local reports whether only this machine can reach the address.
func (a address) local() bool {
	if a.network == "unix" {
		return true
	}
	host, _, _ := net.SplitHostPort(a.address)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
