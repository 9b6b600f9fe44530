package bootstrap

import (
	"fmt"
	"net/url"
	"strings"
)

// Upstream is a service that the workload calls, or a gateway forwards to.
type Upstream struct {
	Host      string // as DestinationRules name it; a name without dots is a service of the workload's namespace
	Port      uint16 // of the service
	Protocol  Protocol
	Listen    uint16    // port of 127.0.0.1 where the application finds it; 0 = nowhere, for gateways
	Addresses []Address // where it is; none = Host is looked up
	// Identities are the SPIFFE IDs that its servers may have. With them it is known to be in the mesh.
	Identities []string
}

// ParseUpstream reads HOST:PORT and, separated by commas, listen=PORT, protocol=…, address=HOST:PORT and
// identity=NAMESPACE/SERVICEACCOUNT or identity=spiffe://…, the last two repeatable. Short identities are of the given
// trust domain. Without listen= the port is that of the service.
func ParseUpstream(s, trustDomain string) (Upstream, error) {
	u, err := parseUpstream(s, trustDomain)
	if err != nil {
		return Upstream{}, fmt.Errorf("%q: %w", s, err)
	}
	return u, nil
}

func parseUpstream(s, trustDomain string) (Upstream, error) {
	parts := strings.Split(s, ",")
	at, err := ParseAddress(parts[0])
	if err != nil || at.Pipe != "" {
		return Upstream{}, fmt.Errorf("%q: want HOST:PORT of the service first, as in payment.coffee-shop.svc.cluster.local:8080", parts[0])
	}
	u := Upstream{Host: strings.ToLower(at.Host), Port: at.Port, Listen: at.Port, Protocol: HTTP}
	for _, part := range parts[1:] {
		key, value, _ := strings.Cut(part, "=")
		if err := u.set(key, value, trustDomain); err != nil {
			return Upstream{}, err
		}
	}
	return u, nil
}

func (u *Upstream) set(key, value, trustDomain string) (err error) {
	switch key {
	case "listen":
		if value == "none" {
			u.Listen = 0
			return nil
		}
		u.Listen, err = ParsePort(value)
	case "protocol":
		u.Protocol, err = ParseProtocol(value)
	case "address":
		var a Address
		if a, err = ParseAddress(value); err == nil {
			u.Addresses = append(u.Addresses, a)
		}
	case "identity":
		var id string
		if id, err = parseIdentity(value, trustDomain); err == nil {
			u.Identities = append(u.Identities, id)
		}
	default:
		return fmt.Errorf("%q: want listen=, protocol=, address= or identity=", key)
	}
	if err != nil {
		return fmt.Errorf("%s=: %w", key, err)
	}
	return nil
}

// parseIdentity reads a SPIFFE ID, or a namespace and service account of the trust domain.
func parseIdentity(s, trustDomain string) (string, error) {
	if strings.HasPrefix(s, "spiffe://") {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || len(u.Path) < 2 || u.RawQuery != "" || u.Fragment != "" || u.User != nil || strings.ContainsAny(s, "%\\ ") {
			return "", fmt.Errorf("%q is not a SPIFFE ID: want spiffe://TRUST-DOMAIN/PATH", s)
		}
		return s, nil
	}
	namespace, account, ok := strings.Cut(s, "/")
	if !ok || !isHost(namespace) || !isHost(account) {
		return "", fmt.Errorf("%q: want NAMESPACE/SERVICEACCOUNT or a SPIFFE ID", s)
	}
	return "spiffe://" + trustDomain + "/ns/" + namespace + "/sa/" + account, nil
}

// name is HOST:PORT, by which routes and messages know the service.
func (u *Upstream) name() string { return Address{Host: u.Host, Port: u.Port}.String() }

// qualified completes the name of a service without dots, which is one of the namespace.
func qualified(host, namespace string) string {
	if strings.ContainsAny(host, ".:") || host == "localhost" {
		return host
	}
	return host + "." + namespace + ".svc.cluster.local"
}

// cluster is its name in Envoy, as Istio spells it.
func (u *Upstream) cluster() string { return fmt.Sprintf("outbound|%d||%s", u.Port, u.Host) }

// namespace is that of the first identity, for hosts that do not say it.
func (u *Upstream) namespace() string {
	if len(u.Identities) == 0 || strings.HasSuffix(u.Host, ".svc.cluster.local") {
		return ""
	}
	_, rest, _ := strings.Cut(u.Identities[0], "/ns/")
	namespace, _, ok := strings.Cut(rest, "/sa/")
	if !ok {
		return ""
	}
	return namespace
}

// Route sends what comes to a gateway for a host to an upstream.
type Route struct {
	Host string // a host, *.host or *
	To   Address
}

// ParseRoute reads HOST=UPSTREAM-HOST:PORT.
func ParseRoute(s string) (Route, error) {
	host, upstream, ok := strings.Cut(s, "=")
	if !ok {
		return Route{}, fmt.Errorf("%q: want HOST=UPSTREAM, as in shop.example.com=order.coffee-shop.svc.cluster.local:8080", s)
	}
	if bare := strings.TrimPrefix(host, "*."); host != "*" && !isHost(bare) {
		return Route{}, fmt.Errorf("%q: %q is not a host, *.host or *", s, host)
	}
	at, err := ParseAddress(upstream)
	if err != nil || at.Pipe != "" {
		return Route{}, fmt.Errorf("%q: %q is not HOST:PORT of an --upstream", s, upstream)
	}
	at.Host = strings.ToLower(at.Host)
	return Route{Host: strings.ToLower(host), To: at}, nil
}
