package bootstrap

import (
	"fmt"
	"net/url"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

// jwtFilter is Envoy's own verification of tokens, as Istio configures it: each rule is a provider, and the requirement of
// n rules is OR(P1 … Pn, AND(OR(Pi, missing))) (request-authentication §1.5). It is empty unless Envoy is to verify tokens
// and a RequestAuthentication applies.
func (m *maker) jwtFilter() (list, error) {
	if !m.Proxy.MetadataJWT || m.bound.Authentication == nil {
		return nil, nil
	}
	var providers object
	var one, all list
	for _, r := range m.bound.Authentication.Rules {
		provider, err := m.jwtProvider(r)
		if err != nil {
			return nil, err
		}
		providers = append(providers, f(r.ID, provider, "RequestAuthentication "+r.ID+"."))
		named := inline{f("provider_name", r.ID)}
		one = append(one, named)
		all = append(all, object{f("requires_any", object{f("requirements", list{named, inline{f("allow_missing", inline{})}})})})
	}
	requirement := all[0]
	if len(all) > 1 {
		requirement = object{f("requires_any", object{f("requirements", append(one, object{f("requires_all", object{f("requirements", all)})}))})}
	}
	return list{shared{"verify_tokens", extension(filterJWT, "filters.http.jwt_authn.v3.JwtAuthentication",
		f("bypass_cors_preflight", true),
		f("providers", providers),
		f("rules", list{object{f("match", inline{f("prefix", "/")}), f("requires", requirement)}},
			"A good token, or none: bad ones are refused here, and whether one is needed is for the policies."),
	)}}, nil
}

// jwtProvider is one rule in Envoy's words.
func (m *maker) jwtProvider(r policy.JWTRule) (object, error) {
	s := r.Spec
	p := object{f("issuer", s.GetIssuer())}
	if len(s.GetAudiences()) > 0 {
		p = append(p, f("audiences", words(s.GetAudiences())))
	}
	keys, err := m.jwks(r)
	if err != nil {
		return nil, err
	}
	p = append(append(p, keys), tokenLocations(s)...)
	p = append(p,
		f("forward", s.GetForwardOriginalToken()),
		f("payload_in_metadata", "payload"),
		f("normalize_payload_in_metadata", inline{f("space_delimited_claims", append(words{"scope", "permission"}, s.GetSpaceDelimitedClaims()...))}))
	if header := s.GetOutputPayloadToHeader(); header != "" {
		p = append(p, f("forward_payload_header", header))
	}
	var claims list
	for _, c := range s.GetOutputClaimToHeaders() {
		claims = append(claims, inline{f("header_name", c.GetHeader()), f("claim_name", c.GetClaim())})
	}
	if claims != nil {
		p = append(p, f("claim_to_headers", claims))
	}
	return p, nil
}

// tokenLocations are where tokens are looked for; none is Envoy's default, which is Istio's too.
func tokenLocations(s *securityv1beta1.JWTRule) []field {
	var out []field
	var headers list
	for _, h := range s.GetFromHeaders() {
		headers = append(headers, inline{f("name", h.GetName()), f("value_prefix", h.GetPrefix())})
	}
	if headers != nil {
		out = append(out, f("from_headers", headers))
	}
	if params := s.GetFromParams(); len(params) > 0 {
		out = append(out, f("from_params", words(params)))
	}
	if cookies := s.GetFromCookies(); len(cookies) > 0 {
		out = append(out, f("from_cookies", words(cookies)))
	}
	return out
}

// jwks is where the keys of a rule are.
func (m *maker) jwks(r policy.JWTRule) (field, error) {
	if keys := r.Spec.GetJwks(); keys != "" {
		return f("local_jwks", object{f("inline_string", keys)}), nil
	}
	fault := func(format string, args ...any) (field, error) {
		return field{}, &DocumentError{"RequestAuthentication " + r.ID, fmt.Sprintf(format, args...)}
	}
	uri := r.Spec.GetJwksUri()
	if uri == "" {
		return fault("no jwksUri: writ finds keys by the issuer's discovery document, Envoy does not: write jwksUri or jwks")
	}
	u, err := url.Parse(uri)
	if err != nil || !isHost(u.Hostname()) || u.Scheme != "https" && u.Scheme != "http" {
		return fault("jwksUri %q: want https://HOST/PATH", uri)
	}
	to := Address{Host: u.Hostname(), Port: 443}
	if u.Scheme == "http" {
		to.Port = 80
		m.warn("RequestAuthentication %s: keys are fetched over http: whoever is on the way can forge tokens", r.ID)
	}
	if port := u.Port(); port != "" {
		if to.Port, err = ParsePort(port); err != nil {
			return fault("jwksUri %q: %v", uri, err)
		}
	}
	timeout := "5s"
	if t := r.Spec.GetTimeout(); t != nil {
		timeout = fmt.Sprintf("%gs", t.AsDuration().Seconds())
	}
	return f("remote_jwks", object{
		f("http_uri", inline{f("uri", uri), f("cluster", m.addKeys(to, u.Scheme == "https")), f("timeout", timeout)}),
		f("cache_duration", "300s"),
		f("async_fetch", inline{}, "Fetched before the port opens, and again in the background: no request waits for keys."),
	}), nil
}

// addKeys adds the cluster that keys are fetched from, once, and returns its name.
func (m *maker) addKeys(to Address, secure bool) string {
	name := "jwks_" + to.String()
	if m.known[name] {
		return name
	}
	m.known[name] = true
	var tls object
	if secure {
		tls = extension("envoy.transport_sockets.tls", "transport_sockets.tls.v3.UpstreamTlsContext",
			f("sni", to.Host),
			f("common_tls_context", object{tlsVersions(), f("validation_context", object{
				f("trusted_ca", file(m.Proxy.SystemRoots)), f("match_typed_subject_alt_names", anyName(to.Host)),
			})}))
	}
	m.clusters = append(m.clusters, item{"Where an issuer's keys are.", cluster(name, HTTP, tls, []Address{to})})
	return name
}
