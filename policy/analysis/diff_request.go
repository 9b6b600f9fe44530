package analysis

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// Request is a request or a connection in the words of people. What is not set does not matter.
type Request struct {
	TCP           bool                      `json:"tcp,omitempty"`
	From          string                    `json:"from,omitempty"` // name in the caller's certificate; empty: it has none
	SourceIP      string                    `json:"source_ip,omitempty"`
	RemoteIP      string                    `json:"remote_ip,omitempty"`
	DestinationIP string                    `json:"destination_ip,omitempty"`
	Port          uint16                    `json:"port,omitempty"`
	SNI           string                    `json:"sni,omitempty"`
	Method        string                    `json:"method,omitempty"`
	Path          string                    `json:"path,omitempty"` // with its query; empty for CONNECT
	Host          string                    `json:"host,omitempty"`
	Headers       map[string]string         `json:"headers,omitempty"`
	Claims        map[string]any            `json:"claims,omitempty"`   // of a token that verifies, nil: none
	Metadata      map[string]map[string]any `json:"metadata,omitempty"` // of the proxy's filters, by namespace and key
}

// request is the request that a point stands for.
func (m *model) request(p point) Request {
	r := Request{TCP: m.tcp}
	if !m.tcp {
		r.Method, r.Path = "GET", "/"
	}
	for i, d := range m.dims {
		r.take(d.attribute, &d.cells[p[i]].value)
	}
	if m.tcp {
		r.RemoteIP = r.SourceIP
	}
	return r
}

// take gives an attribute a value.
func (r *Request) take(a policy.Attribute, v *value) {
	switch a.Kind {
	case policy.AttributeNames:
		r.From = v.text
	case policy.AttributeSourceIP:
		r.SourceIP = v.addr.String()
	case policy.AttributeRemoteIP:
		r.RemoteIP = v.addr.String()
	case policy.AttributeDestIP:
		r.DestinationIP = v.addr.String()
	case policy.AttributeDestPort:
		r.Port = v.port
	case policy.AttributeSNI:
		r.SNI = v.text
	case policy.AttributeMethod:
		r.Method = v.text
	case policy.AttributePath:
		r.Path = v.text
	case policy.AttributeHost:
		r.Host = v.text
	case policy.AttributeHeader:
		if !v.absent {
			if r.Headers == nil {
				r.Headers = map[string]string{}
			}
			r.Headers[a.Name] = v.text
		}
	case policy.AttributeRequestPrincipal:
		if !v.absent {
			r.claim([]string{"iss"}, v.text)
			if v.subject != "" {
				r.claim([]string{"sub"}, v.subject)
			}
		}
	case policy.AttributeClaim:
		if !v.absent {
			r.claim(a.Path, v.listOrText())
		}
	case policy.AttributeMetadata:
		if !v.absent {
			r.metadata(a.Name, a.Path[0], v)
		}
	}
}

// listOrText is a claim as tokens have it: one value is a text, unless it could be read as several (§2, claims).
func (v *value) listOrText() any {
	if len(v.list) == 1 && !strings.Contains(v.list[0], " ") && v.list[0] != "" {
		return v.list[0]
	}
	return anyList(v.list)
}

func anyList(list []string) []any {
	out := make([]any, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out
}

func (r *Request) claim(path []string, v any) {
	if r.Claims == nil {
		r.Claims = map[string]any{}
	}
	at := r.Claims
	for _, name := range path[:len(path)-1] {
		inner, ok := at[name].(map[string]any)
		if !ok {
			inner = map[string]any{}
			at[name] = inner
		}
		at = inner
	}
	at[path[len(path)-1]] = v
}

func (r *Request) metadata(namespace, key string, v *value) {
	if r.Metadata == nil {
		r.Metadata = map[string]map[string]any{}
	}
	if r.Metadata[namespace] == nil {
		r.Metadata[namespace] = map[string]any{}
	}
	if v.isList {
		r.Metadata[namespace][key] = anyList(v.list)
		return
	}
	r.Metadata[namespace][key] = v.text
}

// Policy is the request as the evaluator takes it. Its token is one that verifies.
func (r *Request) Policy() *policy.Request {
	out := &policy.Request{TCP: r.TCP, DestPort: r.Port, SNI: r.SNI}
	if r.From != "" {
		out.Names = []string{r.From}
	}
	out.SourceIP, _ = netip.ParseAddr(r.SourceIP)
	out.RemoteIP, _ = netip.ParseAddr(r.RemoteIP)
	out.DestIP, _ = netip.ParseAddr(r.DestinationIP)
	if r.Metadata != nil {
		out.Metadata = metadata(r.Metadata)
	}
	if r.TCP {
		return out
	}
	out.Method, out.HasMethod = r.Method, true
	out.Host, out.HasHost = r.Host, true
	out.RawPath = r.Path
	out.Path = r.Path
	if i := strings.IndexAny(r.Path, "?#"); i >= 0 {
		out.Path = r.Path[:i]
	}
	for _, name := range sortedKeys(r.Headers) {
		out.Headers = append(out.Headers, policy.Header{Name: name, Value: r.Headers[name]})
	}
	if r.Claims != nil {
		out.Claims = claims(r.Claims)
	}
	return out
}

// claims is the payload of a token that is assumed to verify.
type claims map[string]any

func (c claims) Issuer() string  { s, _ := c["iss"].(string); return s }
func (c claims) Subject() string { s, _ := c["sub"].(string); return s }

func (c claims) Strings(path []string) []string {
	var at any = map[string]any(c)
	for _, name := range path {
		object, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = object[name]
	}
	if s, ok := at.(string); ok {
		return []string{s}
	}
	return texts(at)
}

// texts are the texts of a list.
func texts(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, e := range list {
		if s, ok := e.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// metadata is what the proxy's filters said.
type metadata map[string]map[string]any

func (m metadata) Text(namespace, key string) (string, bool) {
	s, ok := m[namespace][key].(string)
	return s, ok
}

func (m metadata) List(namespace, key string) []string { return texts(m[namespace][key]) }

// decide asks the evaluator that serves. Providers are not asked: the outcome says who would be.
func (s *side) decide(r *policy.Request) Outcome {
	if p := s.bound.MTLS(r.DestPort); p.Mode == policy.ModeStrict && !r.HasIdentity() {
		return Outcome{Decision: Deny, Layer: layerMTLS, Policy: p.By}
	}
	asked := *r
	asked.Claims = nil // CUSTOM policies run before tokens are verified
	var providers []string
	for rule, next := s.bound.Rules.Custom(&asked, 0); rule != nil; rule, next = s.bound.Rules.Custom(&asked, next) {
		providers = append(providers, rule.Policy.Provider)
	}
	slices.Sort(providers)
	if s.tokens != nil && r.Claims != nil {
		if !s.takes(r.Claims) {
			return Outcome{Decision: Deny, Layer: layerJWT}
		}
		asked.Claims = r.Claims
	}
	switch v := s.bound.Rules.Evaluate(&asked); {
	case v.Deny != nil:
		return outcomeOf(Deny, layerDeny, v.Deny)
	case v.Allow != nil:
		o := outcomeOf(Allow, layerAllow, v.Allow)
		o.Providers = providers
		return o
	case v.HasAllow:
		return outcomeOf(Deny, layerAllow, nil)
	default:
		o := outcomeOf(Allow, layerDefault, nil)
		o.Providers = providers
		return o
	}
}

// takes reports whether a token rule of the side takes a token whose signature and times are good.
func (s *side) takes(c policy.Claims) bool {
	for _, r := range s.tokens {
		if r.Spec.GetIssuer() != c.Issuer() {
			continue
		}
		accepted := len(r.Spec.GetAudiences()) == 0
		for _, audience := range c.Strings([]string{"aud"}) {
			accepted = accepted || slices.ContainsFunc(r.Spec.GetAudiences(), func(a string) bool { return normalAudience(a) == normalAudience(audience) })
		}
		if accepted {
			return true
		}
	}
	return false
}
