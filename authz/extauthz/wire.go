package extauthz

import (
	"errors"
	"math"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// Errors of the wire decoder. Each is wrapped with the message it happened in.
var (
	errTruncated = errors.New("truncated protobuf")
	errTag       = errors.New("invalid protobuf tag")
	errUTF8      = errors.New("text that is not UTF-8")
)

// Wire types, as the low three bits of a tag.
const (
	wireVarint = protowire.VarintType
	wireBytes  = protowire.BytesType
)

// field is one field of a message as it stands on the wire.
type field struct {
	tag uint64 // number<<3 | wire type, so that a switch tells a known field with the wrong type from the right one
	val []byte // payload, if length-delimited
	num uint64 // value, if varint
}

// next reads the first field of b into f and returns what follows it. Fields of any legal type are read, so that
// the caller skips what it does not know by ignoring it.
func (f *field) next(b []byte) ([]byte, error) {
	// Every field Envoy sends has a one-byte tag and nearly every length has one or two bytes.
	if len(b) >= 2 && b[0] < 0x80 && b[0]&7 == byte(wireBytes) && b[0] >= 1<<3 {
		f.tag = uint64(b[0])
		size, n := int(b[1]), 2
		if size >= 0x80 {
			if len(b) < 3 || b[2] >= 0x80 {
				return f.slow(b)
			}
			size, n = size&0x7f|int(b[2])<<7, 3
		}
		if size > len(b)-n {
			return nil, errTruncated
		}
		f.val = b[n : n+size : n+size]
		return b[n+size:], nil
	}
	return f.slow(b)
}

func (f *field) slow(b []byte) ([]byte, error) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return nil, errTag
	}
	b = b[n:]
	f.tag, f.val, f.num = uint64(num)<<3|uint64(typ), nil, 0
	switch typ {
	case wireVarint:
		f.num, n = protowire.ConsumeVarint(b)
	case wireBytes:
		f.val, n = protowire.ConsumeBytes(b)
	default: // fixed32, fixed64 and groups are skipped, end-group and reserved types refused
		n = protowire.ConsumeFieldValue(num, typ, b)
	}
	if n < 0 {
		return nil, errTruncated
	}
	return b[n:], nil
}

// text views b as a string without copying it, and refuses what proto3 refuses in a string field.
//
// The string shares b's memory. That is sound because b is part of a CheckRequest that nobody writes to
// (mem.Buffer is read-only by contract) and that is only released after the decision, the observation and the
// response are made; the request is reset before its memory goes back to a pool. What must live longer (a cached
// workload, a certificate's names) is cloned where it is stored.
func text(b []byte) (string, error) {
	s := bytesAsString(b)
	if !utf8.ValidString(s) {
		return "", errUTF8
	}
	return s, nil
}

// bytesAsString is text for bytes fields, which may hold anything.
func bytesAsString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// setText stores the text of a field; the last occurrence wins, as in every protobuf decoder.
func setText(dst *string, b []byte) (err error) {
	*dst, err = text(b)
	return err
}

// entry reads one entry of a map<string, …>; a missing key or value is empty.
func entry(b []byte) (key string, value []byte, err error) {
	var f field
	for len(b) > 0 {
		if b, err = f.next(b); err != nil {
			return "", nil, err
		}
		switch f.tag {
		case mapKey:
			if key, err = text(f.val); err != nil {
				return "", nil, err
			}
		case mapValue:
			value = f.val
		}
	}
	return key, value, nil
}

// portOf is a 32-bit port number as protobuf reads it. Anything no socket can have is refused rather than cut to 16
// bits, where 65616 would look like 80.
func portOf(v uint64) (uint16, bool) {
	v &= math.MaxUint32
	return uint16(v), v <= math.MaxUint16
}
