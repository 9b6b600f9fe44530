package bootstrap

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// Limits of what one bootstrap is made from.
const (
	maxInbound     = 256
	maxUpstreams   = 1024
	maxRoutes      = 1024
	maxGateways    = 64
	maxConnections = 10_000_000
)

// Config is what a bootstrap is made from.
type Config struct {
	Snapshot *policy.Snapshot
	Mesh     policy.Mesh // whose trust domain, with its aliases, peers must be of
	Workload policy.Workload

	Inbound   []Inbound  // ports of the application, for a workload that is no gateway
	Gateways  []string   // namespace/name of the Gateways whose servers to open
	Routes    []Route    // where their requests go; without any, to the only upstream
	Upstreams []Upstream // services that are called

	Bind  netip.Addr // address of inbound and gateway listeners
	Proxy Proxy
}

// Proxy is Envoy's own surroundings.
type Proxy struct {
	SDS   Address // where certificates and roots come from: a Unix socket
	Authz Address // where writ answers checks
	// AuthzCA is the PEM file that writ's certificate is verified with; it switches TLS on. Without it Authz has to be a
	// Unix socket or a loopback address.
	AuthzCA string
	Admin   Address // of Envoy's admin interface; zero = none

	// MetadataJWT has Envoy verify tokens and pass on what they say, for authz.jwt: metadata.
	MetadataJWT bool
	// RawPaths leaves paths as they come, for authz.paths: none.
	RawPaths bool
	// TrustedHops is how many entries of x-forwarded-for a gateway believes, as in authz.trusted_hops.
	TrustedHops int

	// Credentials is the directory that has NAME/tls.crt, NAME/tls.key and NAME/ca.crt for each credentialName.
	Credentials string
	SystemRoots string // PEM file of the roots for servers outside the mesh
	// MaxConnections bounds the connections of clients, to all listeners together.
	MaxConnections int
}

// Protocol is what is spoken on a port.
type Protocol string

// Protocols.
const (
	HTTP  Protocol = "http"  // HTTP/1.1 to the other side; callers may also speak HTTP/2
	HTTP2 Protocol = "http2" // HTTP/2, also gRPC
	TCP   Protocol = "tcp"
)

// ParseProtocol reads a protocol. gRPC is HTTP/2.
func ParseProtocol(s string) (Protocol, error) {
	switch p := Protocol(strings.ToLower(s)); p {
	case HTTP, HTTP2, TCP:
		return p, nil
	case "grpc":
		return HTTP2, nil
	}
	return "", fmt.Errorf("%q is not a protocol: want http, http2 (or grpc) or tcp", s)
}

// Inbound is a port that callers reach the workload on. It is the port that documents speak about, and the one that
// checks say.
type Inbound struct {
	Port     uint16 // where Envoy listens
	App      uint16 // where the application listens, on 127.0.0.1
	Protocol Protocol
}

// ParseInbound reads PORT:APP or PORT:APP:PROTOCOL.
func ParseInbound(s string) (Inbound, error) {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return Inbound{}, fmt.Errorf("%q: want PORT:APP or PORT:APP:PROTOCOL, as in 8080:9080:http: where callers connect, and where the application "+
			"listens on 127.0.0.1", s)
	}
	in := Inbound{Protocol: HTTP}
	var err error
	if in.Port, err = ParsePort(parts[0]); err != nil {
		return Inbound{}, fmt.Errorf("%q: %w", s, err)
	}
	if in.App, err = ParsePort(parts[1]); err != nil {
		return Inbound{}, fmt.Errorf("%q: %w", s, err)
	}
	if len(parts) == 3 {
		if in.Protocol, err = ParseProtocol(parts[2]); err != nil {
			return Inbound{}, fmt.Errorf("%q: %w", s, err)
		}
	}
	if in.Port == in.App {
		return Inbound{}, fmt.Errorf("%q: Envoy and the application cannot both have port %d: move the application to another port of 127.0.0.1, "+
			"and keep the one that callers know for Envoy", s, in.Port)
	}
	return in, nil
}

// ParsePort reads a port from 1 to 65535.
func ParsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", s)
	}
	return uint16(n), nil
}

// Address is where something listens: a Unix socket, or a host and a port. Its zero value is nowhere.
type Address struct {
	Pipe string // path of a Unix socket
	Host string
	Port uint16
}

// ParseAddress reads host:port, unix:///path or unix:path.
func ParseAddress(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		path = "/" + strings.TrimLeft(path, "/")
		if !strings.HasPrefix(s, "unix:/") || path == "/" {
			return Address{}, fmt.Errorf("%q: want an absolute path, as in unix:///run/writ/agent.sock", s)
		}
		return Address{Pipe: path}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return Address{}, fmt.Errorf("%q: want host:port or unix:///path", s)
	}
	if !isHost(host) {
		return Address{}, fmt.Errorf("%q: %q is neither an address nor a host name", s, host)
	}
	number, err := ParsePort(port)
	if err != nil {
		return Address{}, fmt.Errorf("%q: %w", s, err)
	}
	return Address{Host: host, Port: number}, nil
}

func (a Address) isZero() bool { return a == Address{} }

// String is the address as ParseAddress reads it.
func (a Address) String() string {
	switch {
	case a.isZero():
		return ""
	case a.Pipe != "":
		return "unix://" + a.Pipe
	}
	return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// isLocal reports whether nobody between two machines can listen in.
func (a Address) isLocal() bool {
	if a.Pipe != "" || a.Host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(a.Host)
	return err == nil && ip.IsLoopback()
}

// isIP reports whether nothing has to be looked up to connect.
func (a Address) isIP() bool {
	_, err := netip.ParseAddr(a.Host)
	return a.Pipe != "" || err == nil
}

// isHost reports an IP address or a name of letters, digits, dashes, dots and underscores.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	if s == "" || len(s) > 253 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && strings.IndexByte("-._", c) < 0 {
			return false
		}
	}
	return true
}
