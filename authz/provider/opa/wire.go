package opa

import (
	"errors"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

var errWire = errors.New("malformed protobuf")

// wireField is one field as it stands on the wire.
type wireField struct {
	number int
	kind   protowire.Type
	text   string // of a length-delimited field
	value  uint64 // of a number
}

// nextField reads the first field of s and returns what follows it. It works on a string, so that what is taken out of
// it needs no copy and lives as long as whoever holds it.
func nextField(s string, f *wireField) (rest string, err error) {
	tag, s, ok := varint(s)
	if !ok || tag>>3 == 0 || tag>>3 > math.MaxInt32 {
		return "", errWire
	}
	f.number, f.kind = int(tag>>3), protowire.Type(tag&7) //nolint:gosec // checked above
	switch f.kind {
	case protowire.VarintType:
		f.value, s, ok = varint(s)
	case protowire.BytesType:
		var size uint64
		if size, s, ok = varint(s); ok && size <= uint64(len(s)) {
			f.text, s = s[:size], s[size:]
		} else {
			ok = false
		}
	case protowire.Fixed32Type:
		f.value, s, ok = fixed(s, 4)
	case protowire.Fixed64Type:
		f.value, s, ok = fixed(s, 8)
	default: // groups are of proto2
		ok = false
	}
	if !ok {
		return "", errWire
	}
	return s, nil
}

func varint(s string) (v uint64, rest string, ok bool) {
	for i := 0; i < len(s) && i < 10; i++ {
		c := s[i]
		if i == 9 && c > 1 {
			return 0, "", false
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, s[i+1:], true
		}
	}
	return 0, "", false
}

func fixed(s string, n int) (v uint64, rest string, ok bool) {
	if len(s) < n {
		return 0, "", false
	}
	for i := range n {
		v |= uint64(s[i]) << (8 * i)
	}
	return v, s[n:], true
}
