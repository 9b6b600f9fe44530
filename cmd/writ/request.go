package main

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/policy"
)

// requestFlags describe one request. They are turned into the CheckRequest a proxy would send, so that what follows is
// the code the server runs.
type requestFlags struct {
	from, sourceIP, destinationIP, method, path, host, sni string
	port                                                   uint16
	headers                                                []string
	tcp                                                    bool
	jwt                                                    string // file with a bearer token
	token                                                  string // what it holds
	unverified                                             string // claims, or the file of them

	carried      policy.Header  // the header that carries unverified claims
	carriedQuery string         // or the parameter
	metadata     map[string]any // or the proxy's metadata
}

// httpFlags are those that mean nothing for a TCP connection.
func httpFlags() []string { return []string{"method", "path", "host", "header", "jwt", unverifiedFlag} }

func (r *requestFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.from, "from", "", "caller: `spiffe://…`, ns/serviceaccount, or '' for one without a certificate")
	f.StringVar(&r.sourceIP, "source-ip", "", "`address` of the caller's connection")
	f.StringVar(&r.destinationIP, "destination-ip", "", "`address` the connection came in on")
	f.StringVar(&r.method, "method", "GET", "HTTP `method`")
	f.StringVar(&r.path, "path", "/", "HTTP `path`, with its query if it has one")
	f.StringVar(&r.host, "host", "", "HTTP `host`, with its port if it has one")
	f.Uint16Var(&r.port, "port", 0, "`port` the workload listens on")
	f.StringArrayVarP(&r.headers, "header", "H", nil, "HTTP header `'k: v'`; repeat it, the order is kept")
	f.StringVar(&r.jwt, "jwt", "", "`file` with a token, or -, sent as \"authorization: Bearer TOKEN\"")
	f.StringVar(&r.unverified, unverifiedFlag, "",
		"`claims` of a token that nobody signed and nobody verifies, as JSON or a file of it: for trying policies, not tokens")
	f.StringVar(&r.sni, "sni", "", "server `name` of the TLS hello")
	f.BoolVar(&r.tcp, "tcp", false, "a TCP connection instead of an HTTP request")
}

// requestFlagNames are all of them.
func requestFlagNames() []string {
	return append(httpFlags(), "from", "source-ip", "destination-ip", "port", "sni", "tcp")
}

// given reports the first of the flags that was set on the command line, or "".
func (r *requestFlags) given(cmd *cobra.Command) string {
	for _, name := range requestFlagNames() {
		if cmd.Flags().Changed(name) {
			return name
		}
	}
	return ""
}

// The part of envoy.service.auth.v3.CheckRequest that the flags can say, in protobuf JSON.
type (
	checkJSON struct {
		Attributes attributesJSON `json:"attributes"`
	}
	attributesJSON struct {
		Source      peerJSON     `json:"source"`
		Destination peerJSON     `json:"destination"`
		Request     *requestJSON `json:"request,omitempty"`
		TLSSession  *tlsJSON     `json:"tlsSession,omitempty"`
		Metadata    *filtersJSON `json:"metadataContext,omitempty"`
	}
	peerJSON struct {
		Address   *addressJSON `json:"address,omitempty"`
		Principal string       `json:"principal,omitempty"`
	}
	addressJSON struct {
		SocketAddress socketJSON `json:"socketAddress"`
	}
	socketJSON struct {
		Address   string `json:"address,omitempty"`
		PortValue uint16 `json:"portValue"`
	}
	requestJSON struct {
		HTTP httpJSON `json:"http"`
	}
	httpJSON struct {
		Method    string      `json:"method,omitempty"`
		Path      string      `json:"path,omitempty"`
		Host      string      `json:"host,omitempty"`
		Scheme    string      `json:"scheme"`
		HeaderMap headersJSON `json:"headerMap"`
	}
	headersJSON struct {
		Headers []headerJSON `json:"headers"`
	}
	headerJSON struct {
		Key      string `json:"key"`
		RawValue []byte `json:"rawValue"`
	}
	filtersJSON struct {
		FilterMetadata map[string]any `json:"filterMetadata"`
	}
	tlsJSON struct {
		SNI string `json:"sni"`
	}
)

// checkRequest returns the CheckRequest that the flags describe.
func (r *requestFlags) checkRequest(cmd *cobra.Command, trustDomain string) ([]byte, error) {
	principal, err := r.principal(trustDomain)
	if err != nil {
		return nil, err
	}
	a := attributesJSON{Source: peerJSON{Principal: principal}}
	if a.Source.Address, err = peerAddress("source-ip", r.sourceIP, 0); err != nil {
		return nil, err
	}
	if a.Destination.Address, err = peerAddress("destination-ip", r.destinationIP, r.port); err != nil {
		return nil, err
	}
	if r.sni != "" {
		a.TLSSession = &tlsJSON{SNI: r.sni}
	}
	if r.metadata != nil {
		a.Metadata = &filtersJSON{r.metadata}
	}
	if r.tcp {
		for _, name := range httpFlags() {
			if cmd.Flags().Changed(name) {
				return nil, usagef("--%s means nothing for a TCP connection: remove it, or --tcp", name)
			}
		}
	} else if a.Request, err = r.http(); err != nil {
		return nil, err
	}
	return json.Marshal(checkJSON{a})
}

func (r *requestFlags) principal(trustDomain string) (string, error) {
	if r.from == "" || strings.HasPrefix(r.from, "spiffe://") {
		return r.from, nil
	}
	namespace, account, ok := strings.Cut(r.from, "/")
	if !ok || !dnsName.MatchString(namespace) || !dnsName.MatchString(account) {
		return "", usagef("--from %q: want spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, NAMESPACE/ACCOUNT, or '' for no certificate", r.from)
	}
	return "spiffe://" + trustDomain + "/ns/" + namespace + "/sa/" + account, nil
}

func peerAddress(flag, ip string, port uint16) (*addressJSON, error) {
	if ip == "" && port == 0 {
		return nil, nil
	}
	if ip != "" {
		if _, err := netip.ParseAddr(ip); err != nil {
			return nil, usagef("--%s %q: want an IPv4 or IPv6 address", flag, ip)
		}
	}
	return &addressJSON{socketJSON{ip, port}}, nil
}

func (r *requestFlags) http() (*requestJSON, error) {
	h := httpJSON{Method: r.method, Path: policytest.WithQuery(r.path, r.carriedQuery), Host: r.host, Scheme: "http"}
	add := func(key, value string) {
		h.HeaderMap.Headers = append(h.HeaderMap.Headers, headerJSON{key, []byte(value)})
	}
	if r.host != "" {
		add(":authority", r.host)
	}
	if r.path != "" {
		add(":path", h.Path)
	}
	add(":method", r.method)
	for _, header := range r.headers {
		name, value, ok := strings.Cut(header, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, usagef("-H %s: want 'name: value'", strconv.Quote(header))
		}
		if r.token != "" && strings.EqualFold(name, "authorization") {
			return nil, usagef("-H authorization and --jwt say the same: give one of them")
		}
		if strings.EqualFold(name, r.carried.Name) && r.carried.Name != "cookie" {
			return nil, usagef("-H %s and --%s say the same: give one of them", name, unverifiedFlag)
		}
		add(strings.ToLower(name), strings.Trim(value, " \t"))
	}
	if r.token != "" {
		add("authorization", "Bearer "+r.token)
	}
	if r.carried.Name != "" {
		add(r.carried.Name, r.carried.Value)
	}
	return &requestJSON{h}, nil
}
