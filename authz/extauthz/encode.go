package extauthz

import (
	"encoding/binary"
	"math"
	"net/http"

	"google.golang.org/grpc/codes"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// Tags of the response: CheckResponse, google.rpc.Status, DeniedHttpResponse, HttpStatus, Struct and Value.
const (
	responseStatus   = 1<<3 | 2 // CheckResponse.status
	responseDenied   = 2<<3 | 2 // .denied_response
	responseOK       = 3<<3 | 2 // .ok_response
	responseMetadata = 4<<3 | 2 // .dynamic_metadata

	statusCode = 1<<3 | 0 // Status.code

	deniedStatus  = 1<<3 | 2 // DeniedHttpResponse.status
	deniedHeaders = 2<<3 | 2 // .headers
	deniedBody    = 3<<3 | 2 // .body

	okHeaders         = 2<<3 | 2 // OkHttpResponse.headers
	okHeadersToRemove = 5<<3 | 2 // .headers_to_remove
	okParamsToRemove  = 8<<3 | 2 // .query_parameters_to_remove

	optionHeader = 1<<3 | 2 // HeaderValueOption.header; without an append action it overwrites

	httpStatusCode = 1<<3 | 0 // HttpStatus.code
)

// Keys of dynamic_metadata, which Envoy publishes under the filter's name: an access log prints one with
// %DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%. The shadow keys are Istio's (authorization-policy §7).
const (
	metaDecision   = "decision"
	metaID         = "decision_id" // leads to the line of the decision log
	metaLayer      = "layer"
	metaReason     = "reason"
	metaPolicy     = "policy"
	metaRule       = "rule"
	metaRuleID     = "rule_id"
	metaAudit      = "audit"
	metaGeneration = "generation"
	metaProvider   = "provider"   // the CUSTOM provider that decided
	metaToken      = "token"      // why the token was refused
	metaTokenRule  = "token_rule" // the RequestAuthentication rule that refused it, or whose token it is

	metaShadowAllow   = "istio_dry_run_allow_shadow_engine_result"
	metaShadowAllowID = "istio_dry_run_allow_shadow_effective_policy_id"
	metaShadowDeny    = "istio_dry_run_deny_shadow_engine_result"
	metaShadowDenyID  = "istio_dry_run_deny_shadow_effective_policy_id"
)

// appendResponse appends the CheckResponse that says d. Envoy takes a response without a status, or with status OK
// next to a denied_response, for an allow; so every response has a status, and OK goes with ok_response only.
// Detail is for operators and is never part of it.
func appendResponse(b []byte, d *authz.Decision) []byte {
	if d.Allow {
		// An OK google.rpc.Status is an empty message that is present.
		b = append(b, responseStatus, 0, responseOK)
		return appendMetadata(appendChanges(b, &d.Changes, &d.Token), d)
	}
	code, status := codes.PermissionDenied, deniedStatusOf(d)
	if status == http.StatusUnauthorized {
		code = codes.Unauthenticated
	}
	b = append(b, responseStatus, 2, statusCode, byte(code))

	b = append(b, responseDenied)
	b, start := open(b)
	b = append(b, deniedStatus, 3, httpStatusCode)
	b = binary.AppendUvarint(b, uint64(status)) // two bytes, for every status is between 128 and 16383
	if challenge := d.Challenge(); challenge != "" {
		b = appendHeader(append(b, deniedHeaders), "www-authenticate", challenge)
	}
	for i := range d.Changes.ResponseHeaders {
		b = appendRequestHeader(append(b, deniedHeaders), &d.Changes.ResponseHeaders[i])
	}
	if d.Body != "" {
		b = appendString(append(b, deniedBody), d.Body)
	}
	b = closeAt(b, start)
	return appendMetadata(b, d)
}

// appendHeader writes a HeaderValueOption.
func appendHeader(b []byte, name, value string) []byte {
	inner := 1 + sizeText(len(name)) + 1 + sizeText(len(value))
	b = binary.AppendUvarint(b, uint64(1+sizeText(inner)))
	b = binary.AppendUvarint(append(b, optionHeader), uint64(inner))
	b = appendString(append(b, headerKey), name)
	return appendString(append(b, headerValue), value)
}

// deniedStatusOf is the HTTP status of a denial. A denied_response with 200 would go to the client as 200, so what
// is not an error status becomes 403, unless it is a provider that means it: a redirect to a login page.
func deniedStatusOf(d *authz.Decision) int {
	if d.Layer == authz.LayerCustom && authz.IsProviderStatus(d.Status) {
		return d.Status
	}
	if d.Status < 400 || d.Status > 599 {
		return http.StatusForbidden
	}
	return d.Status
}

func appendMetadata(b []byte, d *authz.Decision) []byte {
	b = append(b, responseMetadata)
	b, start := open(b)
	decision := "deny"
	if d.Allow {
		decision = "allow"
	}
	b = appendProviderMetadata(b, d.Changes.Metadata)
	b = appendStringField(b, metaDecision, decision)
	if d.ID != (authz.ID{}) {
		b = appendIDField(b, d.ID)
	}
	b = appendStringField(b, metaLayer, string(d.Layer))
	b = appendStringField(b, metaReason, string(d.Reason))
	if d.Rule != nil {
		b = appendPolicyField(b, d.Rule.Policy)
		b = appendNumberField(b, metaRule, float64(d.Rule.Index))
		b = appendStringField(b, metaRuleID, d.Rule.ID())
		if d.Layer == authz.LayerCustom {
			b = appendStringField(b, metaProvider, d.Rule.Policy.Provider)
		}
	}
	if d.Token.Reason != jwt.Valid {
		b = appendStringField(b, metaToken, d.Token.Reason.String())
	}
	if d.Token.Rule != "" {
		b = appendStringField(b, metaTokenRule, d.Token.Rule)
	}
	if d.Evaluated {
		b = appendVerdict(b, &d.Verdict)
	}
	b = appendNumberField(b, metaGeneration, float64(d.Generation))
	return closeAt(b, start)
}

func appendVerdict(b []byte, v *policy.Verdict) []byte {
	if v.Audit != nil {
		b = appendStringField(b, metaAudit, v.Audit.ID())
	}
	if v.HasShadowDeny {
		b = appendShadow(b, metaShadowDeny, metaShadowDenyID, v.ShadowDeny, v.ShadowDeny == nil)
	}
	if v.HasShadowAllow {
		b = appendShadow(b, metaShadowAllow, metaShadowAllowID, v.ShadowAllow, v.ShadowAllow != nil)
	}
	return b
}

func appendShadow(b []byte, resultKey, idKey string, rule *policy.Rule, allowed bool) []byte {
	result := "denied"
	if allowed {
		result = "allowed"
	}
	b = appendStringField(b, resultKey, result)
	if rule != nil {
		b = appendStringField(b, idKey, rule.ID())
	}
	return b
}

// Tags of google.protobuf.Struct and Value, as bytes.
const (
	tagEntry  = 1<<3 | 2 // Struct.fields
	tagKey    = 1<<3 | 2
	tagValue  = 2<<3 | 2
	tagNumber = 2<<3 | 1 // Value.number_value
	tagString = 3<<3 | 2 // Value.string_value
)

func appendStringField(b []byte, key, value string) []byte {
	inner := 1 + sizeText(len(value))
	b = append(b, tagEntry)
	b = binary.AppendUvarint(b, uint64(1+sizeText(len(key))+1+sizeText(inner)))
	b = appendString(append(b, tagKey), key)
	b = binary.AppendUvarint(append(b, tagValue), uint64(inner))
	return appendString(append(b, tagString), value)
}

func appendIDField(b []byte, id authz.ID) []byte {
	var text [32]byte
	return appendStringField(b, metaID, bytesAsString(id.Append(text[:0])))
}

// appendPolicyField writes policy: "namespace/name" without joining it first.
func appendPolicyField(b []byte, p *policy.Policy) []byte {
	size := len(p.Namespace) + 1 + len(p.Name)
	inner := 1 + sizeText(size)
	b = append(b, tagEntry)
	b = binary.AppendUvarint(b, uint64(1+sizeText(len(metaPolicy))+1+sizeText(inner)))
	b = appendString(append(b, tagKey), metaPolicy)
	b = binary.AppendUvarint(append(b, tagValue), uint64(inner))
	b = binary.AppendUvarint(append(b, tagString), uint64(size))
	b = append(b, p.Namespace...)
	b = append(b, '/')
	return append(b, p.Name...)
}

func appendNumberField(b []byte, key string, value float64) []byte {
	const inner = 1 + 8
	b = append(b, tagEntry)
	b = binary.AppendUvarint(b, uint64(1+sizeText(len(key))+1+1+inner))
	b = appendString(append(b, tagKey), key)
	b = append(b, tagValue, inner, tagNumber)
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(value))
}

// appendString appends a length and the text.
func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// sizeText is the size of n bytes with their length before them.
func sizeText(n int) int {
	size := n + 1
	for v := uint64(n); v >= 0x80; v >>= 7 {
		size++
	}
	return size
}

// open leaves room for the length of a message of unknown size, and closeAt fills it in. The room is two bytes,
// which protobuf allows for short lengths too; a longer message is moved.
func open(b []byte) ([]byte, int) { return append(b, 0x80, 0), len(b) }

func closeAt(b []byte, start int) []byte {
	size := len(b) - start - 2
	if size < 1<<14 {
		b[start], b[start+1] = byte(size)|0x80, byte(size>>7)
		return b
	}
	var prefix [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(prefix[:], uint64(size))
	b = append(b, prefix[:n-2]...)
	copy(b[start+n:], b[start+2:start+2+size])
	copy(b[start:], prefix[:n])
	return b
}
