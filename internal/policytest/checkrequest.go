package policytest

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// object is a JSON object in the making.
type object = map[string]any

// checkRequest is the CheckRequest that a proxy would send, in the bytes it would send: what follows is the code that
// serves.
func (r *Request) checkRequest(trustDomain string) ([]byte, error) {
	source, destination := object{}, object{}
	if principal := r.principal(trustDomain); principal != "" {
		source["principal"] = principal
	}
	setAddress(source, r.Source, 0)
	setAddress(destination, r.Dest, r.Port)
	attributes := object{"source": source, "destination": destination}
	if r.SNI != "" {
		attributes["tlsSession"] = object{"sni": r.SNI}
	}
	if r.Metadata != nil {
		attributes["metadataContext"] = object{"filterMetadata": r.Metadata}
	}
	if !r.TCP {
		attributes["request"] = object{"http": r.http()}
	}
	line, err := json.Marshal(object{"attributes": attributes})
	if err != nil {
		return nil, fmt.Errorf("the request: %w", err)
	}
	return extauthz.ParseJSON(line)
}

func (r *Request) principal(trustDomain string) string {
	if r.From == "" || strings.HasPrefix(r.From, "spiffe://") {
		return r.From
	}
	namespace, account, _ := strings.Cut(r.From, "/")
	return "spiffe://" + trustDomain + "/ns/" + namespace + "/sa/" + account
}

func setAddress(peer object, ip string, port uint16) {
	if ip == "" && port == 0 {
		return
	}
	socket := object{"portValue": port}
	if ip != "" {
		socket["address"] = ip
	}
	peer["address"] = object{"socketAddress": socket}
}

func (r *Request) http() object {
	headers := make([]object, 0, len(r.Headers)+3)
	add := func(key, value string) { headers = append(headers, object{"key": key, "rawValue": []byte(value)}) }
	if r.Host != "" {
		add(":authority", r.Host)
	}
	add(":path", r.Path)
	add(":method", r.Method)
	for _, h := range r.Headers {
		add(h.Name, h.Value)
	}
	http := object{"method": r.Method, "path": r.Path, "scheme": "http", "headerMap": object{"headers": headers}}
	if r.Host != "" {
		http["host"] = r.Host
	}
	return http
}

// withToken is the request with a token of its claims, where it says or the workload's rules look for it.
func (r *Request) withToken(token string, rules []policy.JWTRule) *Request {
	sent := *r
	header, query := Carry(token, r.ClaimsAt, r.Claims, rules)
	if header.Name != "" {
		sent.Headers = append(append([]policy.Header(nil), r.Headers...), header)
	}
	sent.Path = WithQuery(r.Path, query)
	return &sent
}

// withMetadata is the request with claims as the proxy's own filter passes them on (request-authentication §5).
func (r *Request) withMetadata() *Request {
	sent := *r
	sent.Metadata = maps.Clone(r.Metadata)
	if sent.Metadata == nil {
		sent.Metadata = object{}
	}
	maps.Copy(sent.Metadata, ProxyMetadata(r.Claims))
	return &sent
}
