package extauthz

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/jwt"
)

// Tags of what only CUSTOM providers ask for.
const (
	okResponseHeaders = 6<<3 | 2 // OkHttpResponse.response_headers_to_add
	okParamsToSet     = 7<<3 | 2 // .query_parameters_to_set

	optionAppend       = 2<<3 | 2 // HeaderValueOption.append, a BoolValue
	optionAppendAction = 3 << 3   // .append_action, a varint

	boolValue = 1 << 3 // BoolValue.value, a varint

	paramKey   = 1<<3 | 2 // QueryParameter.key
	paramValue = 2<<3 | 2 // .value

	tagNull   = 1 << 3   // Value.null_value, a varint
	tagBool   = 4 << 3   // .bool_value, a varint
	tagStruct = 5<<3 | 2 // .struct_value
	tagList   = 6<<3 | 2 // .list_value
	tagItem   = 1<<3 | 2 // ListValue.values
)

// Values of HeaderAppendAction.
const (
	actionAppend            = 0
	actionAddIfAbsent       = 1
	actionOverwrite         = 2
	actionOverwriteIfExists = 3
)

// appendChanges writes what is done to an allowed request: what providers want, and on top of it what its token does,
// headers that carry its claims, and headers and parameters that go. Envoy removes after it sets, so no name is in both
// lists.
func appendChanges(b []byte, c *authz.Changes, t *jwt.Result) []byte {
	b, start := open(b)
	for i := range c.RequestHeaders {
		b = appendRequestHeader(append(b, okHeaders), &c.RequestHeaders[i])
	}
	for i := range t.SetHeaders {
		b = appendHeader(append(b, okHeaders), t.SetHeaders[i].Name, t.SetHeaders[i].Value)
	}
	for _, name := range c.RemoveHeaders {
		b = appendString(append(b, okHeadersToRemove), name)
	}
	for _, name := range t.RemoveHeaders {
		if !sets(c, name) {
			b = appendString(append(b, okHeadersToRemove), name)
		}
	}
	for i := range c.ResponseHeaders {
		b = appendResponseHeader(append(b, okResponseHeaders), &c.ResponseHeaders[i])
	}
	for _, p := range c.SetParams {
		b = binary.AppendUvarint(append(b, okParamsToSet), uint64(1+sizeText(len(p.Name))+1+sizeText(len(p.Value))))
		b = appendString(append(b, paramKey), p.Name)
		b = appendString(append(b, paramValue), p.Value)
	}
	for _, name := range c.RemoveParams {
		b = appendString(append(b, okParamsToRemove), name)
	}
	for _, name := range t.RemoveParams {
		b = appendString(append(b, okParamsToRemove), name)
	}
	return closeAt(b, start)
}

// sets reports whether a provider sets a header that the engine has let stand.
func sets(c *authz.Changes, name string) bool {
	for i := range c.RequestHeaders {
		if c.RequestHeaders[i].Name == name {
			return true
		}
	}
	return false
}

// appendRequestHeader writes a HeaderValueOption as every version of Envoy reads it: the old append field adds to a
// header, its absence overwrites. The engine has resolved what depends on the header being there.
func appendRequestHeader(b []byte, h *authz.HeaderChange) []byte {
	if h.Append != authz.HeaderAppendOrAdd {
		return appendHeader(b, h.Name, h.Value)
	}
	return appendOption(b, h, optionAppend, 2, boolValue, 1)
}

// appendResponseHeader writes a HeaderValueOption of response_headers_to_add, for which no action means to add.
func appendResponseHeader(b []byte, h *authz.HeaderChange) []byte {
	action := byte(actionAppend)
	switch h.Append {
	case authz.HeaderOverwrite:
		action = actionOverwrite
	case authz.HeaderAddIfAbsent:
		action = actionAddIfAbsent
	case authz.HeaderOverwriteIfExists:
		action = actionOverwriteIfExists
	case authz.HeaderAppendOrAdd:
	}
	return appendOption(b, h, optionAppendAction, action)
}

// appendOption writes a HeaderValueOption with more bytes after the header.
func appendOption(b []byte, h *authz.HeaderChange, more ...byte) []byte {
	inner := 1 + sizeText(len(h.Name)) + 1 + sizeText(len(h.Value))
	b = binary.AppendUvarint(b, uint64(1+sizeText(inner)+len(more)))
	b = binary.AppendUvarint(append(b, optionHeader), uint64(inner))
	b = appendString(append(b, headerKey), h.Name)
	b = appendString(append(b, headerValue), h.Value)
	return append(b, more...)
}

// reserved are the keys of dynamic_metadata that say what writ decided: no provider speaks for it.
func reserved(key string) bool {
	switch key {
	case metaDecision, metaID, metaLayer, metaReason, metaPolicy, metaRule, metaRuleID, metaAudit, metaGeneration, metaToken,
		metaTokenRule, metaProvider, metaShadowAllow, metaShadowAllowID, metaShadowDeny, metaShadowDenyID:
		return true
	}
	return false
}

// appendProviderMetadata writes the entries that providers want to have published.
func appendProviderMetadata(b []byte, m map[string]any) []byte {
	if len(m) == 0 {
		return b
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if !reserved(key) {
			b = appendEntry(b, key, m[key])
		}
	}
	return b
}

// appendEntry writes one entry of Struct.fields.
func appendEntry(b []byte, key string, value any) []byte {
	b, start := open(append(b, tagEntry))
	b = appendString(append(b, tagKey), key)
	b = appendValue(append(b, tagValue), value)
	return closeAt(b, start)
}

// appendValue writes a Value with its length. The engine has checked that it is JSON, neither deep nor large.
func appendValue(b []byte, value any) []byte {
	b, start := open(b)
	switch v := value.(type) {
	case bool:
		b = append(b, tagBool, 0)
		if v {
			b[len(b)-1] = 1
		}
	case float64:
		b = binary.LittleEndian.AppendUint64(append(b, tagNumber), math.Float64bits(v))
	case string:
		b = appendString(append(b, tagString), v)
	case []any:
		var list int
		b, list = open(append(b, tagList))
		for _, item := range v {
			b = appendValue(append(b, tagItem), item)
		}
		b = closeAt(b, list)
	case map[string]any:
		var fields int
		b, fields = open(append(b, tagStruct))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			b = appendEntry(b, key, v[key])
		}
		b = closeAt(b, fields)
	default:
		b = append(b, tagNull, 0)
	}
	return closeAt(b, start)
}
