package provider

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// GRPCConfig says how to ask a server of envoy.service.auth.v3.Authorization. The deadline of a call is that of the
// context it is made with.
type GRPCConfig struct {
	Target    string // host:port, dns:///host:port or unix:///path
	Authority string // the :authority of calls; "" for the target's host and port
	TLS       *TLS   // nil for plaintext

	// Connections is how many connections are held to each address that Target resolves to, 1 if 0. Calls share
	// them, so one is enough for a server that lets many calls on a connection.
	Connections    int
	ConnectTimeout time.Duration // of one attempt, 5 s if 0
	MaxAnswerBytes int           // of a CheckResponse, 1 MiB if 0; its metadata are bounded apart

	// Health asks the server how it is (grpc.health.v1) as long as there is a connection, and sends no call to an
	// address that says it does not serve. A server without that service counts as serving.
	Health  bool
	Breaker Breaker
}

// HTTPConfig says how to ask a server of Envoy's HTTP authorization service. The deadline of a call is that of the
// context it is made with. Header lists hold names, `x*` or `*x`, in any case; a lone `*` is refused.
type HTTPConfig struct {
	Target    string // http://host:port or https://host:port, no path
	Authority string // the host header of checks; "" for that of the request that is checked, as Envoy does
	TLS       *TLS   // of https; nil trusts the system's roots

	MaxConnections int           // 256 if 0; calls beyond that wait for one
	ConnectTimeout time.Duration // of one attempt, 5 s if 0
	MaxAnswerBytes int           // of the body of an answer, 1 MiB if 0; its head is bounded apart

	PathPrefix string // before the path of every check; "" or begins with a slash

	// IncludeRequestHeadersInCheck lists request headers to send besides host, method, path, content-length and
	// authorization.
	IncludeRequestHeadersInCheck []string
	// IncludeAdditionalHeadersInCheck are sent with every check, instead of the client's headers of the same name.
	IncludeAdditionalHeadersInCheck map[string]string
	// IncludeRequestBodyInCheck sends what Envoy sent of the body; nil sends none. Envoy sends writ a body only if its
	// own filter is configured to (with_request_body).
	IncludeRequestBodyInCheck *Body

	HeadersToUpstreamOnAllow   []string // of the answer, that replace those of an allowed request
	HeadersToDownstreamOnAllow []string // of the answer, added to the response of an allowed request
	// HeadersToDownstreamOnDeny lists headers of a denial that the client gets besides www-authenticate and location.
	// Empty lets it have them all.
	HeadersToDownstreamOnDeny []string

	Breaker Breaker
}

// Body says how much of a request's body an HTTP provider sees.
type Body struct {
	MaxRequestBytes     int  // a longer one is answered with 413 and not asked about
	AllowPartialMessage bool // instead send the beginning, with x-envoy-auth-partial-body: true
}

// TLS is whom to trust and who to be.
type TLS struct {
	CA   string // PEM file of roots; "" for the system's
	Cert string // PEM file of the client's certificate chain; "" for none
	Key  string // PEM file of its key
	// ServerName is what the server's certificate must be for: a DNS name, an IP address or a SPIFFE ID
	// (spiffe://…, compared as a whole); "" for the authority, or else the target's host.
	ServerName string
	// Identity, if not nil, is who to be and whom to trust instead of the files: ServerName is then a SPIFFE ID, and is
	// verified by the roots and CRLs of its trust domain. It has to run.
	Identity *Identity
}

// Breaker says when a server that does not answer is no longer asked. What counts is that no answer came (no
// connection, cut off, too late), never what an answer says: a client whose request makes the server fail does not
// decide about other requests.
type Breaker struct {
	Failures int           // in a row that open it, 10 if 0; negative for never
	OpenFor  time.Duration // until one call may try again, 5 s if 0
}

// Defaults and bounds of configurations.
const (
	defaultConnectTimeout = 5 * time.Second
	defaultMaxAnswer      = 1 << 20
	defaultHTTPConns      = 256
	defaultFailures       = 10
	defaultOpenFor        = 5 * time.Second

	maxGRPCConns   = 16
	maxHTTPConns   = 16 << 10
	maxAnswerLimit = 64 << 20
	maxBodyLimit   = 64 << 20
	maxHeaderList  = 256 // names in one list
)

// Problem is one thing wrong with a configuration.
type Problem struct {
	Field   string // such as tls.ca or headers_to_upstream_on_allow[2], in snake case
	Message string // names the value and the fix
}

// Problems are all that is wrong with a configuration, as one error.
type Problems []Problem

// Error lists them, one a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.Field + ": " + problem.Message
	}
	return strings.Join(lines, "\n")
}

func (p *Problems) add(field, format string, args ...any) {
	*p = append(*p, Problem{field, fmt.Sprintf(format, args...)})
}

func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// Check returns nil or [Problems]. It reads no file and asks nobody.
func (c *GRPCConfig) Check() error {
	var p Problems
	checkGRPCTarget(&p, c.Target)
	if c.Authority != "" && !httpguts.ValidHostHeader(c.Authority) {
		p.add("authority", "%q is no host or host:port", c.Authority)
	}
	p.bounds("connections", c.Connections, maxGRPCConns)
	p.limits(c.ConnectTimeout, c.MaxAnswerBytes, c.Breaker)
	c.TLS.check(&p)
	return p.err()
}

// Check returns nil or [Problems]. It reads no file and asks nobody.
func (c *HTTPConfig) Check() error {
	var p Problems
	c.checkTarget(&p)
	if c.Authority != "" && !httpguts.ValidHostHeader(c.Authority) {
		p.add("authority", "%q is no host or host:port", c.Authority)
	}
	p.bounds("max_connections", c.MaxConnections, maxHTTPConns)
	p.limits(c.ConnectTimeout, c.MaxAnswerBytes, c.Breaker)
	c.TLS.check(&p)
	if c.PathPrefix != "" && (c.PathPrefix[0] != '/' || strings.ContainsAny(c.PathPrefix, "?#") || !validPath(c.PathPrefix)) {
		p.add("path_prefix", "%q: begin it with a slash, and leave out spaces, ? and #", c.PathPrefix)
	}
	for _, list := range []struct {
		field string
		names []string
	}{
		{"include_request_headers_in_check", c.IncludeRequestHeadersInCheck},
		{"headers_to_upstream_on_allow", c.HeadersToUpstreamOnAllow},
		{"headers_to_downstream_on_deny", c.HeadersToDownstreamOnDeny},
		{"headers_to_downstream_on_allow", c.HeadersToDownstreamOnAllow},
	} {
		checkHeaderList(&p, list.field, list.names)
	}
	checkAdditional(&p, c.IncludeAdditionalHeadersInCheck)
	if b := c.IncludeRequestBodyInCheck; b != nil && (b.MaxRequestBytes < 1 || b.MaxRequestBytes > maxBodyLimit) {
		p.add("include_request_body_in_check.max_request_bytes", "%d: want 1 to %d", b.MaxRequestBytes, maxBodyLimit)
	}
	return p.err()
}

func checkGRPCTarget(p *Problems, target string) {
	const want = "write it as host:port, dns:///host:port or unix:///path"
	scheme, rest, ok := strings.Cut(target, "://")
	switch {
	case target == "":
		p.add("target", "is missing: %s", want)
	case ok && scheme == "unix":
		if !strings.HasPrefix(rest, "/") {
			p.add("target", "%q: the path of a socket is absolute: unix:///run/authz.sock", target)
		}
	case ok && scheme == "dns":
		if !strings.HasPrefix(rest, "/") { // a name server of its own would be trusted with whom we ask
			p.add("target", "%q: %s", target, want)
		} else {
			checkHostPort(p, target, rest[1:], want)
		}
	case ok:
		p.add("target", "%q: the scheme %q is not known: %s", target, scheme, want)
	default:
		checkHostPort(p, target, target, want)
	}
}

func (c *HTTPConfig) checkTarget(p *Problems) {
	const want = "write it as http://host:port or https://host:port"
	u, err := url.Parse(c.Target)
	switch {
	case c.Target == "":
		p.add("target", "is missing: %s", want)
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.Opaque != "":
		p.add("target", "%q: %s", c.Target, want)
	case strings.TrimSuffix(u.Path, "/") != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		p.add("target", "%q: leave the path out and set path_prefix instead", c.Target)
	case u.Scheme == "http" && c.TLS != nil:
		p.add("target", "%q is plaintext and tls is set: write https, or remove tls", c.Target)
	case u.Port() != "":
		checkHostPort(p, c.Target, u.Host, want)
	}
}

func checkHostPort(p *Problems, target, hostPort, want string) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil || host == "" || strings.ContainsAny(host, "/ ") {
		p.add("target", "%q: %s", target, want)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		p.add("target", "%q: the port is a number from 1 to 65535", target)
	}
}

func (p *Problems) bounds(field string, value, most int) {
	if value < 0 || value > most {
		p.add(field, "%d: want 1 to %d, or leave it out", value, most)
	}
}

func (p *Problems) limits(connect time.Duration, answer int, b Breaker) {
	if connect < 0 {
		p.add("connect_timeout", "%v: want more than 0, or leave it out", connect)
	}
	p.bounds("max_answer_bytes", answer, maxAnswerLimit)
	if b.OpenFor < 0 {
		p.add("breaker.open_for", "%v: want more than 0, or leave it out", b.OpenFor)
	}
}

func (t *TLS) check(p *Problems) {
	if t == nil {
		return
	}
	if (t.Cert == "") != (t.Key == "") {
		p.add("tls", "cert %q and key %q: give both or neither", t.Cert, t.Key)
	}
	if t.Identity != nil {
		if t.CA != "" || t.Cert != "" || t.Key != "" {
			p.add("tls", "ca, cert and key are given beside identity, which stands for all of them: remove them, or identity")
		}
		switch {
		case t.ServerName == "":
			p.add("tls.server_name", "missing: with identity, name the SPIFFE ID of the server, as in spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")
		case !isSPIFFE(t.ServerName):
			p.add("tls.server_name", "%q: with identity, want the SPIFFE ID of the server, as in spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT", t.ServerName)
			return
		}
	}
	if isSPIFFE(t.ServerName) {
		if err := checkSPIFFEID(t.ServerName); err != nil {
			p.add("tls.server_name", "%v", err)
		}
	} else if strings.Contains(t.ServerName, "://") {
		p.add("tls.server_name", "%q: want a DNS name, an IP address or a SPIFFE ID", t.ServerName)
	}
}

func checkAdditional(p *Problems, headers map[string]string) {
	const field = "include_additional_headers_in_check"
	if len(headers) > maxHeaderList {
		p.add(field, "%d headers: want at most %d", len(headers), maxHeaderList)
	}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			p.add(field, "%q is no header name", name)
		case isConnectionHeader(strings.ToLower(name)):
			p.add(field, "%q belongs to the connection and cannot be set", name)
		case strings.EqualFold(name, "host"):
			p.add(field, "%q: set authority instead", name)
		case !httpguts.ValidHeaderFieldValue(headers[name]):
			p.add(field, "the value of %q holds a control character", name)
		}
	}
}
