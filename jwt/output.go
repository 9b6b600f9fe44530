package jwt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
)

// publish returns the headers that outputs ask for (request-authentication §5.5).
func (t *Token) publish(outputs []output) []Header {
	var headers []Header
	for _, o := range outputs {
		text := t.segment
		if o.path != nil {
			text = headerText(t.claims.lookup(o.path))
		}
		if text != "" && isHeaderValue(text) {
			headers = append(headers, Header{o.header, text})
		}
	}
	return headers
}

// headerText is a claim as Envoy writes it to a header, empty for one that is not written.
func headerText(v value) string {
	switch v.kind {
	case kindString:
		text, _ := v.str()
		return text
	case kindNumber:
		n, _ := v.number()
		return headerNumber(n)
	case kindBool:
		return v.text
	case kindArray, kindObject:
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(v.text)); err != nil {
			return ""
		}
		return base64.StdEncoding.EncodeToString(compact.Bytes())
	default:
		return ""
	}
}

// headerNumber writes an integer from 0 to 2^64 without a fraction, everything else with six decimals.
func headerNumber(n float64) string {
	if n >= 0 && n < math.MaxUint64 && n == math.Trunc(n) {
		return strconv.FormatUint(uint64(n), 10)
	}
	return strconv.FormatFloat(n, 'f', 6, 64)
}

// isHeaderValue refuses what would end a header early or hide in a log: all control characters but the tab.
func isHeaderValue(text string) bool {
	for _, c := range []byte(text) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
