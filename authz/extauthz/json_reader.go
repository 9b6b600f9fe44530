package extauthz

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// JSONReader turns CheckRequests in protobuf JSON into the bytes a proxy would send, one after the other. It says of
// every line what [ParseJSON] says, and is several times as fast: what recorders write is translated from text to wire
// without a message in between. Whatever else protobuf JSON may hold (other fields, numbers in other spellings, surrogate
// pairs, deep nesting), and all that is wrong, is left to ParseJSON.
//
// A JSONReader is not safe for concurrent use.
type JSONReader struct {
	jsonScanner
	root  *jsonMessage
	out   []byte
	pairs []jsonPair
}

// jsonPair is a key of an object with its text, if it has one that was read along with it.
type jsonPair struct{ key, value []byte }

// maxJSONDepth bounds the values of a Struct that are translated here. Deeper ones are refused by the decoder anyway.
const maxJSONDepth = maxMetadata

// NewJSONReader makes a reader.
func NewJSONReader() *JSONReader { return &JSONReader{root: checkRequestJSON()} }

// Read returns the request of one line. It is valid until the next call.
func (r *JSONReader) Read(line []byte) ([]byte, error) {
	if raw, ok := r.translate(line); ok {
		return raw, nil
	}
	return ParseJSON(line)
}

// translate reports false of what it leaves to ParseJSON.
func (r *JSONReader) translate(line []byte) (raw []byte, ok bool) {
	r.reset(line)
	r.out, r.pairs = r.out[:0], r.pairs[:0]
	if !r.message(r.root) || !r.end() {
		return nil, false
	}
	return r.out, true
}

// begin writes the tag of a field whose length is not known yet.
func (r *JSONReader) begin(number protowire.Number) (start int) {
	r.out = append(protowire.AppendTag(r.out, number, protowire.BytesType), 0)
	return len(r.out)
}

// finish writes the length of what follows start, which begin has left one byte for.
func (r *JSONReader) finish(start int) {
	size := len(r.out) - start
	if more := protowire.SizeVarint(uint64(size)) - 1; more > 0 {
		r.out = slices.Grow(r.out, more)[:len(r.out)+more]
		copy(r.out[start+more:], r.out[start:start+size])
	}
	binary.PutUvarint(r.out[start-1:], uint64(size))
}

// message translates an object into the fields of m.
func (r *JSONReader) message(m *jsonMessage) bool {
	var seen uint64 // fields, by number
	oneof := false
	return r.object(func(key []byte) bool {
		f := m.field(key)
		if f == nil || seen&(1<<f.number) != 0 {
			return false
		}
		seen |= 1 << f.number
		if r.null() { // is as good as absent
			return true
		}
		if f.oneof {
			if oneof {
				return false
			}
			oneof = true
		}
		return r.field(f)
	})
}

// field translates the value of one field.
func (r *JSONReader) field(f *jsonField) bool {
	switch f.kind {
	case jsonText:
		s, ok := r.text()
		r.bytes(f.number, s)
		return ok
	case jsonNested:
		start := r.begin(f.number)
		ok := r.message(f.message)
		r.finish(start)
		return ok
	case jsonRepeated:
		return r.array(func() bool {
			start := r.begin(f.number)
			ok := r.message(f.message)
			r.finish(start)
			return ok
		})
	case jsonTexts:
		return r.texts(f.number)
	case jsonStructs:
		return r.entries(f.number, func() bool {
			start := r.begin(mapValueNumber)
			ok := r.structure(0)
			r.finish(start)
			return ok
		})
	case jsonBytes:
		return r.base64(f.number)
	case jsonTime:
		return r.time(f.number)
	case jsonEnum:
		s, ok := r.text()
		value := slices.Index(f.values, string(s))
		r.varint(f.number, uint64(max(value, 0)))
		return ok && value >= 0
	case jsonInt64:
		n, ok := r.integer(math.MinInt64, math.MaxInt64)
		r.varint(f.number, uint64(n))
		return ok
	case jsonUint32:
		n, ok := r.integer(0, math.MaxUint32)
		r.varint(f.number, uint64(n))
		return ok
	case jsonBool:
		yes := r.peek() == 't'
		r.varint(f.number, protowire.EncodeBool(yes))
		return yes && r.literal("true") || r.literal("false")
	case jsonEmpty:
		return r.next('{') && r.next('}')
	}
	return false
}

// Numbers of the fields of a map's entry, and of those of messages that JSON has a notation of its own for.
const (
	mapKeyNumber   protowire.Number = 1
	mapValueNumber protowire.Number = 2

	structFields = 1
	listItems    = 1
	valueIsNull  = 1
	valueIsNum   = 2
	valueIsText  = 3
	valueIsBool  = 4
	valueIsObj   = 5
	valueIsList  = 6

	timestampSeconds = 1
	timestampNanos   = 2
)

func (r *JSONReader) bytes(number protowire.Number, value []byte) {
	r.out = protowire.AppendBytes(protowire.AppendTag(r.out, number, protowire.BytesType), value)
}

func (r *JSONReader) varint(number protowire.Number, value uint64) {
	r.out = protowire.AppendVarint(protowire.AppendTag(r.out, number, protowire.VarintType), value)
}

// texts translates an object of texts into a map, in the order of the keys, which is that of ParseJSON.
func (r *JSONReader) texts(number protowire.Number) bool {
	first := len(r.pairs)
	ok := r.object(func(key []byte) bool {
		value, ok := r.text()
		r.pairs = append(r.pairs, jsonPair{key, value})
		return ok
	})
	pairs := r.pairs[first:]
	ok = ok && distinct(pairs)
	for _, p := range pairs {
		size := 2 + protowire.SizeBytes(len(p.key)) + protowire.SizeBytes(len(p.value))
		r.out = protowire.AppendVarint(protowire.AppendTag(r.out, number, protowire.BytesType), uint64(size))
		r.bytes(mapKeyNumber, p.key)
		r.bytes(mapValueNumber, p.value)
	}
	r.pairs = r.pairs[:first]
	return ok
}

// entries translates an object into a map whose values value translates.
func (r *JSONReader) entries(number protowire.Number, value func() bool) bool {
	first := len(r.pairs)
	ok := r.object(func(key []byte) bool {
		r.pairs = append(r.pairs, jsonPair{key: key})
		start := r.begin(number)
		r.bytes(mapKeyNumber, key)
		ok := value()
		r.finish(start)
		return ok
	})
	ok = ok && distinct(r.pairs[first:])
	r.pairs = r.pairs[:first]
	return ok
}

// distinct sorts pairs by key and reports whether no key comes twice.
func distinct(pairs []jsonPair) bool {
	sorted := true
	for i := 1; i < len(pairs) && sorted; i++ {
		sorted = bytes.Compare(pairs[i-1].key, pairs[i].key) < 0
	}
	if sorted {
		return true
	}
	slices.SortFunc(pairs, func(a, b jsonPair) int { return bytes.Compare(a.key, b.key) })
	for i := 1; i < len(pairs); i++ {
		if bytes.Equal(pairs[i-1].key, pairs[i].key) {
			return false
		}
	}
	return true
}

// structure translates an object into a google.protobuf.Struct.
func (r *JSONReader) structure(depth int) bool {
	return r.entries(structFields, func() bool {
		start := r.begin(mapValueNumber)
		ok := r.value(depth + 1)
		r.finish(start)
		return ok
	})
}

// value translates anything into a google.protobuf.Value.
func (r *JSONReader) value(depth int) bool {
	if depth > maxJSONDepth {
		return false
	}
	switch r.peek() {
	case '"':
		s, ok := r.text()
		r.bytes(valueIsText, s)
		return ok
	case '{':
		start := r.begin(valueIsObj)
		ok := r.structure(depth)
		r.finish(start)
		return ok
	case '[':
		start := r.begin(valueIsList)
		ok := r.array(func() bool {
			item := r.begin(listItems)
			ok := r.value(depth + 1)
			r.finish(item)
			return ok
		})
		r.finish(start)
		return ok
	case 'n':
		r.varint(valueIsNull, 0)
		return r.literal("null")
	case 't':
		r.varint(valueIsBool, 1)
		return r.literal("true")
	case 'f':
		r.varint(valueIsBool, 0)
		return r.literal("false")
	}
	number, err := strconv.ParseFloat(string(r.number()), 64)
	r.out = protowire.AppendFixed64(protowire.AppendTag(r.out, valueIsNum, protowire.Fixed64Type), math.Float64bits(number))
	return err == nil
}

// base64 translates text into bytes: in either alphabet, padded or not.
func (r *JSONReader) base64(number protowire.Number) bool {
	s, ok := r.text()
	if !ok {
		return false
	}
	url, padded := bytes.ContainsAny(s, "-_"), len(s)%4 == 0
	encoding := base64.StdEncoding
	switch {
	case url && padded:
		encoding = base64.URLEncoding
	case url:
		encoding = base64.RawURLEncoding
	case !padded:
		encoding = base64.RawStdEncoding
	}
	start := r.begin(number)
	decoded, err := encoding.AppendDecode(r.out, s)
	if err != nil {
		return false
	}
	r.out = decoded
	r.finish(start)
	return true
}

// Seconds of the first and last moments that a google.protobuf.Timestamp may be.
const (
	minSeconds = -62135596800 // 0001-01-01T00:00:00Z
	maxSeconds = 253402300799 // 9999-12-31T23:59:59Z
)

// time translates a time into a google.protobuf.Timestamp. Only UTC and at most nanoseconds are taken here.
func (r *JSONReader) time(number protowire.Number) bool {
	s, ok := r.text()
	if !ok || len(s) > len("2006-01-02T15:04:05.999999999Z") || !bytes.HasSuffix(s, []byte("Z")) {
		return false
	}
	t, err := time.Parse(time.RFC3339Nano, string(s))
	if err != nil || t.Unix() < minSeconds || t.Unix() > maxSeconds {
		return false
	}
	start := r.begin(number)
	r.varint(timestampSeconds, uint64(t.Unix()))
	r.varint(timestampNanos, uint64(t.Nanosecond()))
	r.finish(start)
	return true
}
