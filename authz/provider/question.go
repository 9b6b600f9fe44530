package provider

import (
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/writ-auth/writ/policy"
)

// Fields of a CheckRequest on the way to what an HTTP request says: CheckRequest.attributes, AttributeContext.request,
// Request.http and of HttpRequest headers, body and raw_body; of an entry of a map its key and its value.
const (
	fieldAttributes protowire.Number = 1
	fieldRequest    protowire.Number = 4
	fieldHTTP       protowire.Number = 2
	fieldHeaders    protowire.Number = 3
	fieldBody       protowire.Number = 11
	fieldRawBody    protowire.Number = 12
	fieldKey        protowire.Number = 1
	fieldValue      protowire.Number = 2
)

// joinedHeaders is a CheckRequest with nothing but http.headers, for a request whose headers came as header_map
// (encode_raw_headers); nil for any other. Behind the CheckRequest of that request it adds to it, for protobuf merges
// messages that follow each other. Servers that know Envoy's usual form then find headers, joined and cleaned as Envoy
// does (authorization-policy §9), instead of none.
func joinedHeaders(r *policy.Request) []byte {
	if !r.RawHeaders {
		return nil
	}
	var http []byte
	seen := make(map[string]bool, len(r.Headers))
	for i := range r.Headers {
		name := r.Headers[i].Name
		if seen[name] {
			continue
		}
		seen[name] = true
		value, _ := r.Header(name)
		var entry []byte
		entry = appendField(entry, fieldKey, markInvalid(name))
		entry = appendField(entry, fieldValue, markInvalid(value))
		http = appendField(http, fieldHeaders, entry)
	}
	return appendField(nil, fieldAttributes, appendField(nil, fieldRequest, appendField(nil, fieldHTTP, http)))
}

// markInvalid replaces every byte that is not part of UTF-8 by an exclamation mark, as Envoy does.
func markInvalid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && size == 1 {
			b.WriteByte('!')
		} else {
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}

func appendField[T string | []byte](b []byte, number protowire.Number, value T) []byte {
	b = protowire.AppendVarint(protowire.AppendTag(b, number, protowire.BytesType), uint64(len(value)))
	return append(b, value...)
}

// bodyOf finds body or raw_body in a CheckRequest. The result is part of it.
func bodyOf(checkRequest []byte) (body []byte, err error) {
	err = eachField(checkRequest, []protowire.Number{fieldAttributes, fieldRequest, fieldHTTP}, func(field protowire.Number, value []byte) {
		if (field == fieldBody || field == fieldRawBody) && len(value) > 0 {
			body = value
		}
	})
	return body, err
}

// eachField calls f for every length-delimited field of the messages inside message that the field numbers lead to.
func eachField(message []byte, to []protowire.Number, f func(field protowire.Number, value []byte)) error {
	for len(message) > 0 {
		field, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(field, kind, message); n < 0 {
			return protowire.ParseError(n)
		}
		value, size := protowire.ConsumeBytes(message)
		message = message[n:]
		switch {
		case kind != protowire.BytesType || size < 0:
		case len(to) == 0:
			f(field, value)
		case field == to[0]:
			if err := eachField(value, to[1:], f); err != nil {
				return err
			}
		}
	}
	return nil
}
