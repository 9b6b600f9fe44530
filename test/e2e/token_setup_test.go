package e2e_test

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/internal/testkit"
)

// object and list are parts of Envoy's configuration and of Istio's documents, which are JSON as well as YAML.
type (
	object = map[string]any
	list   = []any
)

// application is a workload with token rules. It is asked for by its name as the host.
type application struct {
	name  string
	rules []object // jwtRules, as in a RequestAuthentication
	allow []object // rules of an ALLOW AuthorizationPolicy; nil = there is none
	// principals is what allow means in Envoy's RBAC: any of them. It is given where Envoy decides as well.
	principals list
}

// host is what the application is called in requests.
func (a application) host() string { return a.name + ".example" }

// documents are the application's, as JSON, which YAML contains.
func (a application) documents(t *testing.T) string {
	document := func(kind string, spec object) string {
		spec["selector"] = object{"matchLabels": object{"app": a.name}}
		return asJSON(t, object{
			"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": object{"name": a.name, "namespace": "coffee-shop"}, "spec": spec,
		}) + "\n---\n"
	}
	text := document("RequestAuthentication", object{"jwtRules": a.rules})
	if a.allow != nil {
		text += document("AuthorizationPolicy", object{"rules": a.allow})
	}
	return text
}

func asJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Listeners of tokenEnvoy. All have the same routes to the same service.
const (
	rawListener      = "raw"      // asks writ, with headers as they came
	joinedListener   = "joined"   // asks writ, with repeated headers joined
	nativeListener   = "native"   // Envoy's own jwt_authn and RBAC decide, as Istio configures them
	metadataListener = "metadata" // Envoy's jwt_authn verifies and writ decides by what it found
)

// tokenEnvoy runs an Envoy with the listeners, for plaintext: certificates are not what is tested.
func (b *bench) tokenEnvoy(t *testing.T, service string, apps []application, listeners ...string) *testkit.Envoy {
	t.Helper()
	var all list
	for _, name := range listeners {
		all = append(all, listener(name, apps))
	}
	text := asJSON(t, object{"static_resources": object{
		"listeners": all,
		"clusters": list{
			cluster("service", object{"socket_address": socket(service)}, nil),
			cluster("writ", object{"pipe": object{"path": b.file("authz.sock")}}, object{
				"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed("upstreams.http.v3.HttpProtocolOptions",
					object{"explicit_http_config": object{"http2_protocol_options": object{}}}),
			}),
		},
	}})
	envoy, err := testkit.StartEnvoy(bounded(t), testkit.EnvoyConfig{Name: "tokens", Binary: b.tools.envoy, Bootstrap: text, Dir: b.dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, envoy.Process) })
	return envoy
}

func socket(address string) object {
	host, port, _ := strings.Cut(address, ":")
	return object{"address": host, "port_value": json.Number(port)}
}

// typed is fields with the type of an Envoy extension.
func typed(extension string, fields object) object {
	fields["@type"] = "type.googleapis.com/envoy.extensions." + extension
	return fields
}

func cluster(name string, address, options object) object {
	return object{
		"name": name, "type": "STATIC", "connect_timeout": "5s", "typed_extension_protocol_options": options,
		"load_assignment": object{"cluster_name": name, "endpoints": list{
			object{"lb_endpoints": list{object{"endpoint": object{"address": address}}}},
		}},
	}
}

func listener(name string, apps []application) object {
	var hosts list
	for _, app := range apps {
		hosts = append(hosts, object{
			"name": app.name, "domains": list{app.host()},
			"routes":                  list{object{"match": object{"prefix": "/"}, "route": object{"cluster": "service"}}},
			"typed_per_filter_config": perHost(name, app),
		})
	}
	manager := typed("filters.network.http_connection_manager.v3.HttpConnectionManager", object{
		"stat_prefix": name, "normalize_path": true, "merge_slashes": true,
		"route_config": object{"name": name, "virtual_hosts": hosts},
		"http_filters": append(filters(name, apps), object{
			"name": "envoy.filters.http.router", "typed_config": typed("filters.http.router.v3.Router", object{}),
		}),
	})
	return object{
		"name": name, "address": object{"socket_address": object{"address": "127.0.0.1", "port_value": 0}},
		"filter_chains": list{object{"filters": list{
			object{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
		}}},
	}
}

const (
	extAuthz = "envoy.filters.http.ext_authz"
	jwtAuthn = "envoy.filters.http.jwt_authn"
	rbac     = "envoy.filters.http.rbac"
)

// perHost is what a listener's filters have to know about an application.
func perHost(name string, app application) object {
	config := object{}
	if name == nativeListener || name == metadataListener {
		config[jwtAuthn] = typed("filters.http.jwt_authn.v3.PerRouteConfig", object{"requirement_name": app.name})
	}
	if name == nativeListener {
		perRoute := object{} // no rules: no decision
		if app.principals != nil {
			perRoute["rbac"] = object{"rules": object{"policies": object{"allow": object{
				"permissions": list{object{"any": true}}, "principals": app.principals,
			}}}}
		}
		config[rbac] = typed("filters.http.rbac.v3.RBACPerRoute", perRoute)
		return config
	}
	config[extAuthz] = typed("filters.http.ext_authz.v3.ExtAuthzPerRoute", object{"check_settings": object{
		"context_extensions": object{"writ.namespace": "coffee-shop", "writ.labels": "app=" + app.name},
	}})
	return config
}

func filters(name string, apps []application) list {
	ask := typed("filters.http.ext_authz.v3.ExtAuthz", object{
		"transport_api_version": "V3", "grpc_service": object{"envoy_grpc": object{"cluster_name": "writ"}, "timeout": "20s"},
		"encode_raw_headers": name != joinedListener,
	})
	switch name {
	case nativeListener:
		return list{
			jwtFilter(apps),
			object{"name": rbac, "typed_config": typed("filters.http.rbac.v3.RBAC", object{})},
		}
	case metadataListener:
		ask["metadata_context_namespaces"] = list{jwtAuthn}
		return list{jwtFilter(apps), object{"name": extAuthz, "typed_config": ask}}
	}
	return list{object{"name": extAuthz, "typed_config": ask}}
}

// jwtFilter is Envoy's JWT filter as Istio configures it for the applications: each rule is a provider, and the
// requirement of n rules is OR(P1 … Pn, AND(OR(Pi, missing))).
func jwtFilter(apps []application) object {
	providers, requirements := object{}, object{}
	for _, app := range apps {
		var any, all list
		sorted := slices.SortedStableFunc(slices.Values(app.rules), func(a, b object) int {
			return cmp.Compare(a["issuer"].(string), b["issuer"].(string))
		})
		for i, rule := range sorted {
			provider := app.name + "-" + string(rune('0'+i))
			providers[provider] = providerOf(rule)
			named := object{"provider_name": provider}
			any = append(any, named)
			all = append(all, object{"requires_any": object{"requirements": list{named, object{"allow_missing": object{}}}}})
		}
		if len(all) == 1 {
			requirements[app.name] = all[0]
			continue
		}
		any = append(any, object{"requires_all": object{"requirements": all}})
		requirements[app.name] = object{"requires_any": object{"requirements": any}}
	}
	return object{"name": jwtAuthn, "typed_config": typed("filters.http.jwt_authn.v3.JwtAuthentication", object{
		"providers": providers, "requirement_map": requirements, "bypass_cors_preflight": true,
	})}
}

// providerOf is one rule in Envoy's words.
func providerOf(rule object) object {
	p := object{
		"local_jwks":                    object{"inline_string": rule["jwks"]},
		"payload_in_metadata":           "payload",
		"normalize_payload_in_metadata": object{"space_delimited_claims": list{"scope", "permission"}},
	}
	for istio, envoy := range map[string]string{
		"issuer": "issuer", "audiences": "audiences", "fromParams": "from_params", "fromCookies": "from_cookies",
		"outputPayloadToHeader": "forward_payload_header", "forwardOriginalToken": "forward",
	} {
		if value, ok := rule[istio]; ok {
			p[envoy] = value
		}
	}
	if headers, ok := rule["fromHeaders"].(list); ok {
		p["from_headers"] = renamed(headers, map[string]string{"name": "name", "prefix": "value_prefix"})
	}
	if claims, ok := rule["outputClaimToHeaders"].(list); ok {
		p["claim_to_headers"] = renamed(claims, map[string]string{"header": "header_name", "claim": "claim_name"})
	}
	return p
}

func renamed(all list, names map[string]string) list {
	var out list
	for _, one := range all {
		renamed := object{}
		for from, to := range names {
			if value, ok := one.(object)[from]; ok {
				renamed[to] = value
			}
		}
		out = append(out, renamed)
	}
	return out
}

// claim is the RBAC principal of a token whose claim matches: value is a matcher of metadata.
func claim(name string, value object) object {
	return object{"metadata": object{
		"filter": jwtAuthn, "path": list{object{"key": "payload"}, object{"key": name}}, "value": value,
	}}
}

// anyPrincipal is requestPrincipals: ["*"].
func anyPrincipal() object {
	present := object{"string_match": object{"safe_regex": object{"regex": ".+"}}}
	return object{"and_ids": object{"ids": list{claim("iss", present), claim("sub", present)}}}
}

// hasElement is a condition on a claim with several values: ["value"].
func hasElement(name, value string) object {
	return claim(name, object{"or_match": object{"value_matchers": list{
		object{"string_match": object{"exact": value}},
		object{"list_match": object{"one_of": object{"string_match": object{"exact": value}}}},
	}}})
}

// identityProvider is one for a test, with a certificate of the bench's CA.
func (b *bench) identityProvider(t *testing.T) *testkit.IdentityProvider {
	t.Helper()
	idp, err := testkit.ServeIdentityProvider(t.Context(), testkit.IdentityProviderConfig{CA: b.ca})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := idp.Close(); err != nil {
			t.Error(err)
		}
	})
	return idp
}

// rule is a jwtRules entry for the provider's tokens by its keys of now; more adds to it or replaces.
func rule(idp *testkit.IdentityProvider, more object) object {
	r := object{"issuer": idp.Issuer, "jwks": idp.JWKS()}
	maps.Copy(r, more)
	return r
}

// output copies claims to headers: header, claim, header, claim, …
func output(pairs ...string) list {
	var out list
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, object{"header": pairs[i], "claim": pairs[i+1]})
	}
	return out
}

// plain is a client without a certificate, for tokenEnvoy.
func plain(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// ask sends one request for an application to a listener.
func ask(t *testing.T, client *http.Client, envoy *testkit.Envoy, listener string, app, method, target string, header ...string) response {
	t.Helper()
	got, err := try(t.Context(), client, "http://"+envoy.Listener(listener), method, target, append(header, "host: "+app+".example")...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return got
}

// echoed is what reached the service, without what every request has.
func echoed(t *testing.T, r response) testkit.Echo {
	t.Helper()
	var echo testkit.Echo
	if err := json.Unmarshal([]byte(r.body), &echo); err != nil || r.status != http.StatusOK {
		t.Fatalf("got %d %q, want the service's answer", r.status, r.body)
	}
	for name := range echo.Headers {
		switch name {
		case "X-Request-Id", "X-Forwarded-Proto", "X-Forwarded-For", "X-Envoy-Expected-Rq-Timeout-Ms", "User-Agent", "Accept-Encoding", "Content-Length":
			delete(echo.Headers, name)
		default: // several lines of a header are the same as one with commas (RFC 9110 §5.3)
			echo.Headers[name] = []string{strings.Join(echo.Headers[name], ",")}
		}
	}
	return echo
}
