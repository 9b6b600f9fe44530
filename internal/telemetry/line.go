package telemetry

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/writ-auth/writ/policy"
)

// appendLine appends the JSON line of one decision. Only the fields named here are ever written: no header, no token
// and no query can get into the log. With subjects set, whom a token is of is one of them.
func appendLine(b []byte, c *Check, subjects bool) []byte {
	d := c.Decision
	b = append(b, `{"time":"`...)
	b = c.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	b = d.ID.Append(append(b, `,"decision_id":"`...))
	b = append(b, '"')
	b = appendString(b, "request_id", c.RequestID)
	b = appendString(b, "decision", decisionWord(d.Allow))
	b = appendInt(b, "status", int64(d.Status))
	b = appendString(b, "layer", string(d.Layer))
	b = appendString(b, "reason", string(d.Reason))
	b = appendRule(b, d.Rule)
	if w := c.workload(); w != nil {
		b = appendWorkload(b, w)
	}
	b = appendRequest(b, c.Request)
	b = appendToken(b, c, subjects)
	b = appendCustom(b, d)
	b = appendInt(b, "generation", int64(d.Generation))
	b = append(b, `,"duration_us":`...)
	b = strconv.AppendFloat(b, float64(c.Duration)/float64(time.Microsecond), 'f', 1, 64)
	if d.Evaluated {
		b = appendVerdict(b, &d.Verdict)
	}
	b = appendString(b, "detail", d.Detail)
	return append(b, '}', '\n')
}

func appendRule(b []byte, r *policy.Rule) []byte {
	if r == nil {
		return b
	}
	if r.Policy != nil {
		b = append(b, `,"policy":"`...)
		b = appendEscaped(b, r.Policy.Namespace)
		b = append(b, '/')
		b = append(appendEscaped(b, r.Policy.Name), '"')
	}
	return appendInt(b, "rule", int64(r.Index))
}

func appendWorkload(b []byte, w *policy.Workload) []byte {
	b = append(b, `,"workload":{"namespace":"`...)
	b = append(appendEscaped(b, w.Namespace), '"')
	b = appendString(b, "service_account", w.ServiceAccount)
	b = appendString(b, "name", w.Name)
	if len(w.Labels) > 0 {
		b = append(b, `,"labels":{`...)
		for i, k := range slices.Sorted(maps.Keys(w.Labels)) {
			if i == maxLabels {
				break
			}
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, '"')
			b = append(appendEscaped(b, k), `":"`...)
			b = append(appendEscaped(b, w.Labels[k]), '"')
		}
		b = append(b, '}')
	}
	return append(b, '}')
}

func appendRequest(b []byte, r *policy.Request) []byte {
	if r == nil {
		return b
	}
	b = appendString(b, "source", principal(r.Names))
	if r.SourceIP.IsValid() {
		b = append(b, `,"source_ip":"`...)
		b = append(r.SourceIP.AppendTo(b), '"')
	}
	if r.RemoteIP.IsValid() && r.RemoteIP != r.SourceIP {
		b = append(b, `,"remote_ip":"`...)
		b = append(r.RemoteIP.AppendTo(b), '"')
	}
	if r.DestPort != 0 {
		b = appendInt(b, "port", int64(r.DestPort))
	}
	b = appendString(b, "sni", r.SNI)
	if r.TCP {
		return append(b, `,"tcp":true`...)
	}
	b = appendString(b, "method", r.Method)
	b = appendString(b, "host", r.Host)
	return appendString(b, "path", withoutQuery(r.Path))
}

// withoutQuery makes sure of what Request.Path promises: a query may hold a token.
func withoutQuery(path string) string {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		return path[:i]
	}
	return path
}

// principal is the name the peer is known by: its SPIFFE ID, else its first name.
func principal(names []string) string {
	for _, n := range names {
		if strings.HasPrefix(n, "spiffe://") {
			return n
		}
	}
	if len(names) > 0 {
		return names[0]
	}
	return ""
}

func appendVerdict(b []byte, v *policy.Verdict) []byte {
	if v.Audit != nil {
		b = append(b, `,"audit":"`...)
		b = append(appendRuleName(b, v.Audit), '"')
	}
	if !v.HasShadowDeny && !v.HasShadowAllow {
		return b
	}
	b = append(b, `,"shadow":{`...)
	if v.HasShadowDeny {
		b = appendShadow(b, "deny", v.ShadowDeny)
	}
	if v.HasShadowAllow {
		if v.HasShadowDeny {
			b = append(b, ',')
		}
		b = appendShadow(b, "allow", v.ShadowAllow)
	}
	return append(b, '}')
}

// appendShadow writes "deny":"ns/name[2]" for the dry-run rule that matched, or "deny":null.
func appendShadow(b []byte, action string, r *policy.Rule) []byte {
	b = append(append(append(b, '"'), action...), `":`...)
	if r == nil {
		return append(b, "null"...)
	}
	return append(appendRuleName(append(b, '"'), r), '"')
}

func appendRuleName(b []byte, r *policy.Rule) []byte {
	if r.Policy != nil {
		b = append(appendEscaped(b, r.Policy.Namespace), '/')
		b = appendEscaped(b, r.Policy.Name)
	}
	return append(strconv.AppendInt(append(b, '['), int64(r.Index), 10), ']')
}

// appendString appends ,"key":"value", or nothing when value is empty. key is a constant that needs no escape.
func appendString(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	b = append(append(append(b, ',', '"'), key...), `":"`...)
	return append(appendEscaped(b, value), '"')
}

func appendInt(b []byte, key string, value int64) []byte {
	b = append(append(append(b, ',', '"'), key...), `":`...)
	return strconv.AppendInt(b, value, 10)
}

// appendEscaped appends s as the inside of a JSON string, cut to maxValueBytes. Whatever a terminal, a log viewer or a
// line-based tool could take for more than text is escaped: control characters, invisible ones, invalid UTF-8.
func appendEscaped(b []byte, s string) []byte {
	cut := len(s) > maxValueBytes
	if cut {
		end := maxValueBytes
		for end > 0 && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end]
	}
	for i := 0; i < len(s); {
		if c := s[i]; c >= 0x20 && c < 0x7f {
			if c == '"' || c == '\\' {
				b = append(b, '\\')
			}
			b = append(b, c)
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(b, `\ufffd`...)
		case strconv.IsPrint(r):
			b = append(b, s[i:i+size]...)
		default:
			b = appendUnicode(b, r)
		}
		i += size
	}
	if cut {
		b = append(b, "…"...)
	}
	return b
}

// appendUnicode appends r as \uXXXX, or as the surrogate pair JSON needs beyond the first plane.
func appendUnicode(b []byte, r rune) []byte {
	if r > 0xffff {
		r -= 0x10000
		return appendUnicode(appendUnicode(b, 0xd800+r>>10), 0xdc00+r&0x3ff)
	}
	const hex = "0123456789abcdef"
	return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}
