package opa

import (
	"bytes"
	"encoding/base64"

	"errors"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxDepth is how deep messages may nest.
const maxDepth = 64

var errDeep = errors.New("messages nested too deep")

// slot is what was found of one field of a message: the last value of a single one, all of a repeated one.
type slot struct {
	set    bool
	number uint64
	text   string
	many   []wireField
}

// object decodes a message into the object that protobuf JSON shows, without what is not wanted. Protobuf's rules hold:
// the last value of a field wins, messages that come twice merge, setting one of a oneof unsets the others.
func (s *shape) object(text string, want *demand, depth int) (ast.Value, error) {
	if depth > maxDepth {
		return nil, errDeep
	}
	var table [maxFields]slot
	slots := table[:len(s.fields)]
	if err := s.collect(text, want, slots); err != nil {
		return nil, err
	}
	n := 0
	for i := range slots {
		if slots[i].set {
			n++
		}
	}
	pairs := make([][2]*ast.Term, 0, n)
	for i := range slots {
		if !slots[i].set {
			continue
		}
		f := &s.fields[i]
		value, err := f.value(&slots[i], want.of(f.name), depth)
		if err != nil {
			return nil, err
		}
		if value != nil {
			pairs = append(pairs, [2]*ast.Term{f.key, ast.NewTerm(value)})
		}
	}
	return ast.NewObject(pairs...), nil
}

// collect finds the fields of a message.
func (s *shape) collect(text string, want *demand, slots []slot) (err error) {
	var w wireField
	for text != "" {
		if text, err = nextField(text, &w); err != nil {
			return err
		}
		if w.number >= len(s.byNumber) || s.byNumber[w.number] < 0 {
			continue
		}
		i := int(s.byNumber[w.number])
		f := &s.fields[i]
		if want.of(f.name) == nil && s.special == plain && f.oneof < 0 {
			continue
		}
		if f.oneof >= 0 {
			for j := range slots {
				if j != i && s.fields[j].oneof == f.oneof {
					slots[j] = slot{}
				}
			}
		}
		if err := f.found(&slots[i], &w); err != nil {
			return err
		}
	}
	return nil
}

// found notes one occurrence of a field.
func (f *shapeField) found(s *slot, w *wireField) error {
	switch {
	case f.list && w.kind == protowire.BytesType && packable(f.kind):
		return f.unpack(s, w.text)
	case f.list || f.mapped:
		if s.many == nil {
			s.many = make([]wireField, 0, 16)
		}
		s.many = append(s.many, *w)
	case f.kind == protoreflect.MessageKind && s.set: // the parts of one message, written apart
		s.text += w.text
	default:
		s.text, s.number = w.text, w.value
	}
	s.set = true
	return nil
}

func packable(k protoreflect.Kind) bool {
	return k != protoreflect.StringKind && k != protoreflect.BytesKind && k != protoreflect.MessageKind
}

// unpack reads numbers that are written one after the other.
func (f *shapeField) unpack(s *slot, text string) error {
	for text != "" {
		var w wireField
		var ok bool
		switch f.kind {
		case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
			w.value, text, ok = fixed(text, 4)
		case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
			w.value, text, ok = fixed(text, 8)
		default:
			w.value, text, ok = varint(text)
		}
		if !ok {
			return errWire
		}
		s.many = append(s.many, w)
	}
	s.set = s.set || len(s.many) > 0
	return nil
}

// value is what a field shows; nil for nothing.
func (f *shapeField) value(s *slot, want *demand, depth int) (ast.Value, error) {
	if want == nil {
		return nil, nil
	}
	switch {
	case f.mapped:
		return f.mapValue(s.many, want, depth)
	case f.list:
		terms := make([]*ast.Term, 0, len(s.many))
		for i := range s.many {
			v, err := f.single(s.many[i].text, s.many[i].value, everything(), depth)
			if err != nil {
				return nil, err
			}
			terms = append(terms, ast.NewTerm(v))
		}
		return ast.NewArray(terms...), nil
	case f.kind == protoreflect.MessageKind:
		return f.message.show(s.text, want, depth+1)
	case !f.presence && s.text == "" && s.number == 0:
		return nil, nil
	}
	return f.single(s.text, s.number, want, depth)
}

// mapValue shows the entries that are wanted. The last one of a name counts.
func (f *shapeField) mapValue(entries []wireField, want *demand, depth int) (ast.Value, error) {
	pairs := make([][2]*ast.Term, 0, len(entries))
	for i := range entries {
		key, text, number, err := mapEntry(entries[i].text)
		if err != nil {
			return nil, err
		}
		wanted := want.of(key)
		if wanted == nil {
			continue
		}
		v, err := f.single(text, number, wanted, depth)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, [2]*ast.Term{ast.StringTerm(valid(key)), ast.NewTerm(v)})
	}
	return objectOf(pairs), nil
}

func mapEntry(entry string) (key, text string, number uint64, err error) {
	var w wireField
	for entry != "" {
		if entry, err = nextField(entry, &w); err != nil {
			return "", "", 0, err
		}
		switch w.number {
		case 1:
			key = w.text
		case 2:
			text, number = w.text, w.value
		}
	}
	return key, text, number, nil
}

// objectOf makes an object in which the last pair of a name wins; NewObject takes names to be different.
func objectOf(pairs [][2]*ast.Term) ast.Object {
	const few = 48
	if len(pairs) > few {
		o := ast.NewObjectWithCapacity(len(pairs))
		for _, p := range pairs {
			o.Insert(p[0], p[1])
		}
		return o
	}
	kept := pairs[:0]
	for i := range pairs {
		last := true
		for j := i + 1; j < len(pairs) && last; j++ {
			last = pairs[j][0].Value.(ast.String) != pairs[i][0].Value.(ast.String)
		}
		if last {
			kept = append(kept, pairs[i])
		}
	}
	return ast.NewObject(kept...)
}

// single shows one value.
func (f *shapeField) single(text string, number uint64, want *demand, depth int) (ast.Value, error) {
	switch f.kind {
	case protoreflect.StringKind:
		return ast.String(valid(text)), nil
	case protoreflect.BytesKind:
		return ast.String(base64.StdEncoding.EncodeToString([]byte(text))), nil
	case protoreflect.MessageKind:
		return f.message.show(text, want, depth+1)
	case protoreflect.BoolKind:
		return ast.Boolean(number != 0), nil
	case protoreflect.EnumKind:
		n := protoreflect.EnumNumber(int32(number)) //nolint:gosec // as protobuf reads it
		if v := f.enum.Values().ByNumber(n); v != nil {
			return ast.String(v.Name()), nil
		}
		return ast.Number(strconv.Itoa(int(n))), nil
	case protoreflect.Int32Kind, protoreflect.Sfixed32Kind:
		return ast.Number(strconv.FormatInt(int64(int32(number)), 10)), nil //nolint:gosec // as protobuf reads it
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return ast.Number(strconv.FormatUint(number&math.MaxUint32, 10)), nil
	case protoreflect.Int64Kind, protoreflect.Sfixed64Kind: // text, for JSON's numbers are not as precise
		return ast.String(strconv.FormatInt(int64(number), 10)), nil //nolint:gosec // as protobuf reads it
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return ast.String(strconv.FormatUint(number, 10)), nil
	case protoreflect.DoubleKind:
		return floatValue(math.Float64frombits(number), 64), nil
	case protoreflect.FloatKind:
		return floatValue(float64(math.Float32frombits(uint32(number&math.MaxUint32))), 32), nil
	default: // zigzag numbers and groups are in none of the messages
		return ast.NullValue, nil
	}
}

// floatValue is a number, or the text that protobuf JSON has for what is none.
func floatValue(v float64, bits int) ast.Value {
	switch {
	case math.IsNaN(v):
		return ast.String("NaN")
	case math.IsInf(v, 1):
		return ast.String("Infinity")
	case math.IsInf(v, -1):
		return ast.String("-Infinity")
	case v == math.Trunc(v) && math.Abs(v) < 1e15:
		return ast.Number(strconv.FormatInt(int64(v), 10))
	}
	return ast.Number(strconv.FormatFloat(v, 'g', -1, bits))
}

// valid is text as JSON can hold it.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "!") // what Envoy puts in place of such bytes
}

// show is a message in the form that protobuf JSON has for it.
func (s *shape) show(text string, want *demand, depth int) (ast.Value, error) {
	if depth > maxDepth {
		return nil, errDeep
	}
	switch s.special {
	case isTimestamp, isDuration:
		return showTime(text, s.special)
	case isWrapper:
		var slots [1]slot
		if err := s.collect(text, want, slots[:]); err != nil {
			return nil, err
		}
		return s.fields[0].single(slots[0].text, slots[0].number, want, depth)
	case isStruct:
		return showStruct(text, want, depth)
	case isValue:
		return showValue(text, want, depth)
	case isList:
		return showList(text, depth)
	case isAny:
		return showAny(text)
	case plain:
	}
	return s.object(text, want, depth)
}

// showTime shows a Timestamp (2006-01-02T15:04:05.120Z) or a Duration (1.500s), with as many groups of three digits as it
// takes.
func showTime(text string, kind special) (ast.Value, error) {
	var w wireField
	var seconds, nanos int64
	for text != "" {
		var err error
		if text, err = nextField(text, &w); err != nil {
			return nil, err
		}
		switch w.number {
		case 1:
			seconds = int64(w.value) //nolint:gosec // as protobuf reads it
		case 2:
			nanos = int64(int32(w.value)) //nolint:gosec // as protobuf reads it
		}
	}
	if kind == isDuration {
		sign := ""
		if seconds < 0 || nanos < 0 {
			sign, seconds, nanos = "-", -seconds, -nanos
		}
		return ast.String(sign + strconv.FormatInt(seconds, 10) + fraction(nanos) + "s"), nil
	}
	return ast.String(time.Unix(seconds, 0).UTC().Format("2006-01-02T15:04:05") + fraction(nanos) + "Z"), nil
}

func fraction(nanos int64) string {
	if nanos == 0 {
		return ""
	}
	digits := strconv.FormatInt(1_000_000_000+nanos, 10)[1:]
	for strings.HasSuffix(digits, "000") {
		digits = strings.TrimSuffix(digits, "000")
	}
	return "." + digits
}

func showStruct(text string, want *demand, depth int) (ast.Value, error) {
	var w wireField
	var err error
	pairs := make([][2]*ast.Term, 0, 8)
	for text != "" {
		if text, err = nextField(text, &w); err != nil {
			return nil, err
		}
		if w.number != 1 || w.kind != protowire.BytesType {
			continue
		}
		key, value, _, err := mapEntry(w.text)
		if err != nil {
			return nil, err
		}
		wanted := want.of(key)
		if wanted == nil {
			continue
		}
		v, err := showValue(value, wanted, depth+1)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, [2]*ast.Term{ast.StringTerm(valid(key)), ast.NewTerm(v)})
	}
	return objectOf(pairs), nil
}

func showList(text string, depth int) (ast.Value, error) {
	var w wireField
	var err error
	var terms []*ast.Term
	for text != "" {
		if text, err = nextField(text, &w); err != nil {
			return nil, err
		}
		if w.number != 1 || w.kind != protowire.BytesType {
			continue
		}
		v, err := showValue(w.text, everything(), depth+1)
		if err != nil {
			return nil, err
		}
		terms = append(terms, ast.NewTerm(v))
	}
	return ast.NewArray(terms...), nil
}

func showValue(text string, want *demand, depth int) (ast.Value, error) {
	if depth > maxDepth {
		return nil, errDeep
	}
	var w, last wireField
	var err error
	for text != "" {
		if text, err = nextField(text, &w); err != nil {
			return nil, err
		}
		if w.number <= 6 {
			last = w
		}
	}
	switch last.number {
	case 2:
		return floatValue(math.Float64frombits(last.value), 64), nil
	case 3:
		return ast.String(valid(last.text)), nil
	case 4:
		return ast.Boolean(last.value != 0), nil
	case 5:
		return showStruct(last.text, want, depth)
	case 6:
		return showList(last.text, depth)
	}
	return ast.NullValue, nil
}

// showAny shows a message of any type: its fields if the type is known to this program, else its bytes.
func showAny(text string) (ast.Value, error) {
	message := new(anypb.Any)
	if err := proto.Unmarshal([]byte(text), message); err != nil {
		return nil, errWire
	}
	if shown, err := protojson.Marshal(message); err == nil {
		return ast.ValueFromReader(bytes.NewReader(shown))
	}
	return ast.NewObject(
		[2]*ast.Term{ast.StringTerm("@type"), ast.StringTerm(valid(message.GetTypeUrl()))},
		[2]*ast.Term{ast.StringTerm("value"), ast.StringTerm(base64.StdEncoding.EncodeToString(message.GetValue()))},
	), nil
}
