package policytest

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// suiteDecoder reads one suite.
type suiteDecoder struct {
	*fileDecoder
	suite     *Suite
	workloads map[string]policy.Workload
	defaults  setup
}

// setup is everything of a case but what it expects. Sides of a matrix are applied to it like the fields of a request.
type setup struct {
	request   Request
	providers map[string]Answer
	time      time.Time
}

func (s *setup) clone() setup {
	c := *s
	c.request.Headers = slices.Clone(s.request.Headers)
	c.providers = maps.Clone(s.providers)
	return c
}

func (b *suiteDecoder) policies(n *yaml.Node, path string) {
	b.items(n, path, func(n *yaml.Node, path string) {
		if p, ok := b.text(n, path); ok {
			b.suite.Policies = append(b.suite.Policies, p)
		}
	})
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		b.problem(n, path, "names nothing: leave it out for the documents beside this file")
	}
}

func (b *suiteDecoder) workloadsField(n *yaml.Node, path string) {
	b.entries(n, path, func(key, value *yaml.Node, path string) {
		b.workloads[key.Value] = b.workload(value, path)
	})
}

func (b *suiteDecoder) workload(n *yaml.Node, path string) policy.Workload {
	var w policy.Workload
	b.object(n, path, []field{
		{"namespace", b.set(&w.Namespace)},
		{"name", b.set(&w.Name)},
		{"service_account", b.set(&w.ServiceAccount)},
		{"labels", func(n *yaml.Node, path string) {
			w.Labels = map[string]string{}
			b.entries(n, path, func(key, value *yaml.Node, path string) { w.Labels[key.Value], _ = b.text(value, path) })
		}},
		{"services", func(n *yaml.Node, path string) {
			b.items(n, path, func(n *yaml.Node, path string) {
				s, _ := b.text(n, path)
				w.Services = append(w.Services, s)
			})
		}},
	})
	if w.Namespace == "" && n.Kind == yaml.MappingNode {
		b.problem(n, path+".namespace", "missing: write the namespace of the workload")
	}
	return w
}

func (b *suiteDecoder) readDefaults(n *yaml.Node) {
	b.defaults.request = Request{Method: "GET", Path: "/"}
	b.object(n, "defaults", b.setupFields(&b.defaults))
}

// setupFields are the keys that defaults and a test have in common.
func (b *suiteDecoder) setupFields(s *setup) []field {
	return []field{
		{"request", func(n *yaml.Node, path string) { b.object(n, path, b.requestFields(&s.request)) }},
		{"providers", func(n *yaml.Node, path string) {
			s.providers = maps.Clone(s.providers)
			if s.providers == nil {
				s.providers = map[string]Answer{}
			}
			b.entries(n, path, func(key, value *yaml.Node, path string) {
				s.providers[key.Value] = Answer(b.word(value, path, answers()...))
			})
		}},
		{"time", func(n *yaml.Node, path string) {
			text, ok := b.text(n, path)
			at, err := time.Parse(time.RFC3339, text)
			if ok && err != nil {
				b.problem(n, path, "%q: want a time such as 2026-08-01T12:00:00Z", text)
			}
			s.time = at
		}},
	}
}

// requestFields are the keys of a request, which are those of a matrix as well.
func (b *suiteDecoder) requestFields(r *Request) []field {
	address := func(to *string) func(*yaml.Node, string) {
		return func(n *yaml.Node, path string) {
			text, ok := b.text(n, path)
			if _, err := netip.ParseAddr(text); ok && err != nil {
				b.problem(n, path, "%q: want an IPv4 or IPv6 address", text)
			}
			*to = text
		}
	}
	return []field{
		{"to", func(n *yaml.Node, path string) { b.to(n, path, r) }},
		{"from", func(n *yaml.Node, path string) { b.from(n, path, r) }},
		{"source_ip", address(&r.Source)},
		{"destination_ip", address(&r.Dest)},
		{"port", func(n *yaml.Node, path string) { r.Port = uint16(b.number(n, path, 1, 65535)) }},
		{"method", func(n *yaml.Node, path string) {
			if b.set(&r.Method)(n, path); n.Kind == yaml.ScalarNode && n.Value == "" && !isNull(n) {
				b.problem(n, path, "empty: leave it out for GET")
			}
			r.line = true
		}},
		{"path", func(n *yaml.Node, path string) { r.Path, _ = b.text(n, path); r.line = true }},
		{"host", b.set(&r.Host)},
		{"headers", func(n *yaml.Node, path string) { b.headers(n, path, r) }},
		{"sni", b.set(&r.SNI)},
		{"tcp", func(n *yaml.Node, path string) { r.TCP = b.boolean(n, path) }},
		{"metadata", func(n *yaml.Node, path string) {
			r.Metadata = b.free(n, path)
			for _, ns := range slices.Sorted(maps.Keys(r.Metadata)) {
				if _, ok := r.Metadata[ns].(map[string]any); !ok {
					b.problem(n, path+"."+ns, "want the keys and values of a filter, by its name")
				}
			}
		}},
		{"unverified_claims", func(n *yaml.Node, path string) { b.claims(n, path, r) }},
		{"unverified_claims_at", func(n *yaml.Node, path string) {
			if b.set(&r.ClaimsAt)(n, path); !isPlace(r.ClaimsAt) {
				b.problem(n, path, "%q: want header NAME, parameter NAME or cookie NAME", r.ClaimsAt)
			}
			r.ClaimsAt = lowerHeader(r.ClaimsAt)
		}},
	}
}

// to reads whom a request is for: the name of a workload, namespace/name, or the workload itself.
func (b *suiteDecoder) to(n *yaml.Node, path string, r *Request) {
	if n.Kind == yaml.MappingNode {
		r.To = b.workload(n, path)
		r.ToName = r.To.Namespace
		if name := firstOf(r.To.Name, r.To.ServiceAccount); name != "" {
			r.ToName += "/" + name
		}
		return
	}
	name, ok := b.text(n, path)
	if !ok {
		return
	}
	r.ToName = name
	if w, known := b.workloads[name]; known {
		r.To = w
		return
	}
	namespace, workload, found := strings.Cut(name, "/")
	if !found || !dnsName.MatchString(namespace) || !dnsName.MatchString(workload) {
		known := slices.Sorted(maps.Keys(b.workloads))
		b.problem(n, path, "%q: no workload of this name, want one of workloads (%s), or namespace/name%s", name, strings.Join(known, ", "),
			b.suggest(name, known))
		return
	}
	r.To = policy.Workload{Namespace: namespace, Name: workload}
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// dnsName is what Kubernetes takes as the name of an object.
var dnsName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

func (b *suiteDecoder) from(n *yaml.Node, path string, r *Request) {
	text, ok := b.text(n, path)
	namespace, account, cut := strings.Cut(text, "/")
	valid := text == "" || strings.HasPrefix(text, "spiffe://") || cut && dnsName.MatchString(namespace) && dnsName.MatchString(account)
	if ok && !valid {
		b.problem(n, path, "%q: want spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, NAMESPACE/ACCOUNT, or '' for no certificate", text)
	}
	r.From = text
}

// headers adds to those of the defaults. A list sends a header several times; an empty one takes it away.
func (b *suiteDecoder) headers(n *yaml.Node, path string, r *Request) {
	b.entries(n, path, func(key, value *yaml.Node, path string) {
		name := strings.ToLower(key.Value)
		if name == "" || name[0] == ':' || strings.ContainsAny(name, " \t\r\n:") {
			b.problem(key, path, "%q: want the name of a header; method, path and host have keys of their own", key.Value)
		}
		r.Headers = slices.DeleteFunc(r.Headers, func(h policy.Header) bool { return h.Name == name })
		add := func(n *yaml.Node, path string) {
			v, _ := b.text(n, path)
			if strings.ContainsAny(v, "\r\n\x00") {
				b.problem(n, path, "%q: the value of a header is one line", v)
			}
			r.Headers = append(r.Headers, policy.Header{Name: name, Value: v})
		}
		if value.Kind == yaml.SequenceNode {
			b.items(value, path, add)
			return
		}
		add(value, path)
	})
}

// claims adds to the unverified_claims of the defaults. A claim that is null is taken away, and null alone the token.
func (b *suiteDecoder) claims(n *yaml.Node, path string, r *Request) {
	if isNull(n) {
		r.Claims = nil
		return
	}
	given := b.free(n, path)
	r.Claims = maps.Clone(r.Claims)
	if r.Claims == nil {
		r.Claims = map[string]any{}
	}
	maps.Copy(r.Claims, given)
	maps.DeleteFunc(r.Claims, func(_ string, v any) bool { return v == nil })
	for _, name := range []string{"exp", "nbf", "iat"} {
		switch given[name].(type) {
		case nil, int, int64, uint64, float64:
		default:
			b.problem(n, join(path, name), "want seconds since 1970, as tokens have them")
		}
	}
}

func (b *suiteDecoder) expect(n *yaml.Node, path string) Expect {
	var e Expect
	b.object(n, path, []field{
		{"decision", func(n *yaml.Node, path string) { e.Decision = b.word(n, path, "ALLOW", "DENY") }},
		{"status", func(n *yaml.Node, path string) { e.Status = b.number(n, path, 200, 599) }},
		{"layer", func(n *yaml.Node, path string) {
			e.Layer = authz.Layer(b.word(n, path, "system", "mtls", "custom", "jwt", "deny", "allow", "default"))
		}},
		{"policy", b.policyName(&e.Policy)},
		{"rule", func(n *yaml.Node, path string) {
			rule := b.number(n, path, 0, 1<<20)
			e.Rule = &rule
		}},
		{"audit", b.policyName(&e.Audit)},
		{"dry_run_deny", b.policyName(&e.DryRunDeny)},
		{"dry_run_allow", b.policyName(&e.DryRunAllow)},
	})
	if e.empty() && n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		b.problem(n, path, "expects nothing: write decision: ALLOW or DENY, or more")
	}
	return e
}

// policyName reads namespace/name of a policy, or none.
func (b *suiteDecoder) policyName(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		text, ok := b.text(n, path)
		namespace, name, cut := strings.Cut(text, "/")
		if ok && text != None && (!cut || !dnsName.MatchString(namespace) || !dnsName.MatchString(name)) {
			b.problem(n, path, "%q: want namespace/name of a policy, or %s", text, None)
		}
		*to = text
	}
}
