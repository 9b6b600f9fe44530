package provider

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"

	"github.com/writ-auth/writ/authz"
)

// Extension is an entry of MeshConfig's extensionProviders that CUSTOM policies can name. Either GRPC or HTTP is set.
type Extension struct {
	Name string
	GRPC *GRPCConfig
	HTTP *HTTPConfig

	Timeout       time.Duration // of a check; Istio's 600 s when the entry has none
	FailOpen      bool          // an error lets the request go on
	StatusOnError int           // HTTP status of a denial because of an error; 403 when the entry has none
	// Notes say what the entry asks of Envoy or of Istio's registry and writ does in another way, one sentence each.
	Notes []string
}

// istioTimeout is how long Istio lets a check take when the entry does not say (authorization-policy §6).
const istioTimeout = 600 * time.Second

// ParseExtension reads one entry as JSON, with no field that this version does not know. Problems name its fields.
func ParseExtension(text []byte) (*Extension, error) {
	entry := new(meshv1alpha1.MeshConfig_ExtensionProvider)
	if err := protojson.Unmarshal(text, entry); err != nil {
		return nil, fmt.Errorf("no entry of extensionProviders: %w", err)
	}
	return FromExtension(entry)
}

// FromExtension reads an entry as Istio does (authorization-policy §6). Its error is [Problems], with fields named as in
// the entry.
func FromExtension(entry *meshv1alpha1.MeshConfig_ExtensionProvider) (*Extension, error) {
	var p Problems
	e := &Extension{Name: entry.GetName(), StatusOnError: 403}
	if !isLabel(e.Name) {
		p.add("name", "%q: a CUSTOM policy can name it only if it is a DNS label: lower-case letters, digits and inner hyphens, at most 63", e.Name)
	}
	switch {
	case entry.GetEnvoyExtAuthzGrpc() != nil:
		e.grpc(&p, entry.GetEnvoyExtAuthzGrpc())
	case entry.GetEnvoyExtAuthzHttp() != nil:
		e.http(&p, entry.GetEnvoyExtAuthzHttp())
	default:
		p.add("name", "%q is no provider of CUSTOM policies: want envoyExtAuthzGrpc or envoyExtAuthzHttp", e.Name)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *Extension) grpc(p *Problems, from *meshv1alpha1.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationGrpcProvider) {
	const at = "envoyExtAuthzGrpc."
	host := e.service(p, at, from.GetService(), from.GetPort())
	e.common(p, at, from.GetTimeout(), from.GetFailOpen(), from.GetStatusOnError(), from.GetClearRouteCache())
	if from.GetIncludeRequestBodyInCheck() != nil {
		e.note("includeRequestBodyInCheck: a gRPC provider is sent what Envoy sends writ, so set with_request_body in Envoy's own ext_authz filter.")
	}
	e.GRPC = &GRPCConfig{Target: "dns:///" + net.JoinHostPort(host, strconv.FormatUint(uint64(from.GetPort()), 10)), Authority: bracketed(host)}
	e.adopt(p, at, e.GRPC.Check())
}

func (e *Extension) http(p *Problems, from *meshv1alpha1.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider) {
	const at = "envoyExtAuthzHttp."
	host := e.service(p, at, from.GetService(), from.GetPort())
	e.common(p, at, from.GetTimeout(), from.GetFailOpen(), from.GetStatusOnError(), from.GetClearRouteCache())
	include := from.GetIncludeRequestHeadersInCheck()
	if old := from.GetIncludeHeadersInCheck(); len(old) > 0 { //nolint:staticcheck // deprecated, and Istio still reads it
		if len(include) == 0 {
			include = old
		} else {
			e.note("includeHeadersInCheck is deprecated and not used, because includeRequestHeadersInCheck is there.")
		}
	}
	e.HTTP = &HTTPConfig{
		Target:                          "http://" + net.JoinHostPort(host, strconv.FormatUint(uint64(from.GetPort()), 10)),
		PathPrefix:                      from.GetPathPrefix(),
		IncludeRequestHeadersInCheck:    slices.Clone(include),
		IncludeAdditionalHeadersInCheck: maps.Clone(from.GetIncludeAdditionalHeadersInCheck()),
		HeadersToUpstreamOnAllow:        slices.Clone(from.GetHeadersToUpstreamOnAllow()),
		HeadersToDownstreamOnAllow:      slices.Clone(from.GetHeadersToDownstreamOnAllow()),
		HeadersToDownstreamOnDeny:       slices.Clone(from.GetHeadersToDownstreamOnDeny()),
	}
	if body := from.GetIncludeRequestBodyInCheck(); body != nil {
		e.HTTP.IncludeRequestBodyInCheck = &Body{
			MaxRequestBytes:     int(min(body.GetMaxRequestBytes(), maxBodyLimit+1)),
			AllowPartialMessage: body.GetAllowPartialMessage(),
		}
		e.note("includeRequestBodyInCheck: the provider sees what Envoy sends writ, so set with_request_body in Envoy's own ext_authz filter as well.")
	}
	e.note("A TCP connection that matches a policy of this provider is an error of the provider; Istio does not check it at all.")
	e.adopt(p, at, e.HTTP.Check())
}

// service reads `[namespace/]host` and the port, and returns the host.
func (e *Extension) service(p *Problems, at, service string, port uint32) string {
	namespace, host, ok := strings.Cut(service, "/")
	if !ok {
		namespace, host = "", service
	}
	switch {
	case service == "":
		p.add(at+"service", "is missing: want the name of a service, such as authz.istio-system.svc.cluster.local")
	case ok && !isLabel(namespace), !isHost(host):
		p.add(at+"service", "%q: want [namespace/]host, the host a DNS name or an IP address", service)
	case ok:
		e.note(fmt.Sprintf("service: %q is resolved as a DNS name; the namespace picks among entries of Istio's registry and is not used.", host))
	}
	if port < 1 || port > 65535 {
		p.add(at+"port", "%d: want 1 to 65535", port)
	}
	return host
}

func (e *Extension) common(p *Problems, at string, timeout *durationpb.Duration, failOpen bool, status string, clearRouteCache bool) {
	e.FailOpen = failOpen
	e.Timeout = timeout.AsDuration()
	switch {
	case timeout == nil:
		e.Timeout = istioTimeout
		e.note("timeout is not set, which is 600 s in Istio; Envoy's own ext_authz timeout, 200 ms unless set, bounds a check before that.")
	case timeout.CheckValid() != nil || e.Timeout <= 0:
		p.add(at+"timeout", "%v: want more than 0, or leave it out", timeout)
	}
	if status != "" {
		code, err := strconv.ParseInt(status, 10, 32)
		if _, known := typev3.StatusCode_name[int32(code)]; err != nil || !known || !authz.IsProviderStatus(int(code)) {
			p.add(at+"statusOnError", "%q: want an HTTP status that Envoy knows, such as 403 or 503", status)
		}
		e.StatusOnError = int(code)
	}
	if clearRouteCache {
		e.note("clearRouteCache is not wired in Istio; set clear_route_cache in Envoy's own ext_authz filter.")
	}
}

func (e *Extension) note(sentence string) { e.Notes = append(e.Notes, sentence) }

// adopt takes over the problems of the configuration that was made from the entry, under the entry's names. What was
// found wrong with the service or the port already is not said twice.
func (e *Extension) adopt(p *Problems, at string, err error) {
	problems, _ := err.(Problems) //nolint:errorlint // Check returns Problems as they are
	for _, problem := range problems {
		if problem.Field != "target" && problem.Field != "authority" {
			p.add(at+camelCase(problem.Field), "%s", problem.Message)
		}
	}
}

// camelCase turns path_prefix into pathPrefix.
func camelCase(field string) string {
	var b strings.Builder
	upper := false
	for _, r := range field {
		switch {
		case r == '_':
			upper = true
		case upper:
			b.WriteString(strings.ToUpper(string(r)))
			upper = false
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// isLabel reports whether s is a DNS label (RFC 1123), as the names of providers are.
func isLabel(s string) bool { return authz.IsProviderName(s) }

// isHost reports whether s is a DNS name or an IP address.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	s = strings.TrimSuffix(strings.ToLower(s), ".")
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

// bracketed is a host as an authority has it.
func bracketed(host string) string {
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		return "[" + host + "]"
	}
	return host
}
