package policytest

import (
	"net/url"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

// Names of the filter whose verified claims a proxy passes on, and of the payload in its metadata.
const (
	jwtFilter  = "envoy.filters.http.jwt_authn"
	jwtPayload = "payload"
)

// ProxyMetadata is the metadata by which a proxy whose own filter verifies tokens passes claims on
// (request-authentication §5).
func ProxyMetadata(claims map[string]any) map[string]any {
	return object{jwtFilter: object{jwtPayload: claims}}
}

// Kinds of places, as their names begin.
const (
	placeHeader = "header "
	placeParam  = "parameter "
	placeCookie = "cookie "
)

// DefaultPlace is where a rule looks that names no place.
const DefaultPlace = placeHeader + "authorization"

// Place is one place a token rule looks for tokens.
type Place struct {
	Name string                   // such as "header authorization"
	Spec *securityv1beta1.JWTRule // the rule, looking there only
	// NoQuery is set where Spec looks into the query as well, which has to be left out: a rule that names no place looks into
	// the header and the query.
	NoQuery bool
}

// PlacesOf takes a rule apart into rules that look for a token in one place each.
func PlacesOf(rule *securityv1beta1.JWTRule) []Place {
	only := func(change func(*securityv1beta1.JWTRule)) *securityv1beta1.JWTRule {
		narrowed := proto.CloneOf(rule)
		narrowed.FromHeaders, narrowed.FromParams, narrowed.FromCookies = nil, nil, nil
		change(narrowed)
		return narrowed
	}
	param := func(name string) Place {
		return Place{Name: placeParam + name, Spec: only(func(r *securityv1beta1.JWTRule) { r.FromParams = []string{name} })}
	}
	if len(rule.GetFromHeaders())+len(rule.GetFromParams())+len(rule.GetFromCookies()) == 0 {
		return []Place{{Name: DefaultPlace, Spec: rule, NoQuery: true}, param("access_token")}
	}
	var places []Place
	for _, h := range rule.GetFromHeaders() {
		places = append(places, Place{Name: placeHeader + strings.ToLower(h.GetName()), Spec: only(func(r *securityv1beta1.JWTRule) {
			r.FromHeaders = []*securityv1beta1.JWTHeader{h}
		})})
	}
	for _, name := range rule.GetFromParams() {
		places = append(places, param(name))
	}
	for _, name := range rule.GetFromCookies() {
		places = append(places, Place{Name: placeCookie + name, Spec: only(func(r *securityv1beta1.JWTRule) { r.FromCookies = []string{name} })})
	}
	return places
}

// isPlace reports whether text names a place.
func isPlace(text string) bool {
	return slices.ContainsFunc([]string{placeHeader, placeParam, placeCookie}, func(kind string) bool {
		name, ok := strings.CutPrefix(text, kind)
		return ok && name != "" && !strings.ContainsAny(name, " \t\r\n:;=&")
	})
}

// lowerHeader is the place with the name of a header in lower case.
func lowerHeader(place string) string {
	if strings.HasPrefix(place, placeHeader) {
		return strings.ToLower(place)
	}
	return place
}

// Carry says how a request carries a token of claims: by a header, or by a parameter of its query. at names the place, empty
// for the first one where the first rule of the token's issuer looks. The prefix of a header is that of the rule.
func Carry(token, at string, claims map[string]any, rules []policy.JWTRule) (header policy.Header, query string) {
	prefix, found := "", false
	for _, rule := range rules {
		if issuer := rule.Spec.GetIssuer(); issuer != "" && issuer != claims["iss"] {
			continue
		}
		if at == "" {
			at = PlacesOf(rule.Spec)[0].Name
		}
		for _, h := range rule.Spec.GetFromHeaders() {
			if !found && at == placeHeader+strings.ToLower(h.GetName()) {
				prefix, found = h.GetPrefix(), true
			}
		}
	}
	if at == "" {
		at = DefaultPlace
	}
	if at == DefaultPlace && !found {
		prefix = "Bearer "
	}
	if name, ok := strings.CutPrefix(at, placeParam); ok {
		return policy.Header{}, url.QueryEscape(name) + "=" + token
	}
	if name, ok := strings.CutPrefix(at, placeCookie); ok {
		return policy.Header{Name: "cookie", Value: name + "=" + token}, ""
	}
	return policy.Header{Name: strings.TrimPrefix(at, placeHeader), Value: prefix + token}, ""
}

// WithQuery is a path with a parameter more, or as it is if that is empty.
func WithQuery(path, parameter string) string {
	switch {
	case parameter == "":
		return path
	case strings.Contains(path, "?"):
		return path + "&" + parameter
	}
	return path + "?" + parameter
}
