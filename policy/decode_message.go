package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// messageShape is what the decoder needs to know of a protobuf message type, found once.
type messageShape struct {
	fields map[string]*fieldShape // by JSON name and by name as in the .proto file
	names  []string               // JSON names, in order of declaration
}

type fieldShape struct {
	desc    protoreflect.FieldDescriptor
	name    string        // JSON name
	bit     uint64        // of a message's seen set; no type has 64 fields
	message *messageShape // of a message, or of the messages of a list or map; nil for what is written as one value
}

// shapes are the message types of all known kinds, by full name. Read only once made.
var shapes = sync.OnceValue(func() map[protoreflect.FullName]*messageShape {
	all := map[protoreflect.FullName]*messageShape{}
	for _, k := range knownKinds {
		addShape(all, k.spec().ProtoReflect().Descriptor())
	}
	return all
})

func addShape(all map[protoreflect.FullName]*messageShape, md protoreflect.MessageDescriptor) *messageShape {
	if s := all[md.FullName()]; s != nil {
		return s
	}
	s := &messageShape{fields: map[string]*fieldShape{}}
	all[md.FullName()] = s
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		f := &fieldShape{desc: fd, name: fd.JSONName(), bit: 1 << i}
		element := fd
		if fd.IsMap() {
			element = fd.MapValue()
		}
		if element.Message() != nil && !isWellKnown(element) {
			f.message = addShape(all, element.Message())
		}
		s.fields[fd.JSONName()], s.fields[string(fd.Name())] = f, f
		s.names = append(s.names, fd.JSONName())
	}
	return s
}

// isWellKnown reports a message of protobuf's own that is written as one value: a duration, or a number or boolean that
// can be absent.
func isWellKnown(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && fd.Message().FullName().Parent() == "google.protobuf"
}

// decodeSpec fills m from n, strictly.
func (o *objectDecoder) decodeSpec(key, n *yaml.Node, m proto.Message) {
	r := m.ProtoReflect()
	o.message(key, n, shapes()[r.Descriptor().FullName()], r)
}

// message fills m from an object. Every field is read even if others are wrong. A null is an object without fields.
func (o *objectDecoder) message(key, n *yaml.Node, shape *messageShape, m protoreflect.Message) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		o.wrongType(key, n, wantObject)
		return
	}
	var seen uint64
	content := o.entries(n)
	for i := 0; i+1 < len(content) && !o.stopped(); i += 2 {
		k, v := content[i], resolved(content[i+1])
		name, ok := o.key(k)
		if !ok {
			continue
		}
		f := shape.fields[name]
		if f == nil {
			o.unknownField(k, name, shape)
			continue
		}
		o.push(f.name)
		if seen&f.bit != 0 {
			o.report(codeDuplicateKey, k, quoted(name)+" is given twice", "keep one of the two")
		} else if !isNull(v) {
			o.oneOf(k, f, m)
			o.value(k, v, f, m)
		}
		seen |= f.bit
		o.pop()
	}
}

// oneOf reports a second field of a group of which only one may be set.
func (o *objectDecoder) oneOf(k *yaml.Node, f *fieldShape, m protoreflect.Message) {
	group := f.desc.ContainingOneof()
	if group == nil || group.IsSynthetic() {
		return
	}
	if other := m.WhichOneof(group); other != nil {
		o.report(codeOneOf, k, fmt.Sprintf("%s is set as well as %s", f.name, other.JSONName()), "keep one of the two")
	}
}

func (o *objectDecoder) value(k, v *yaml.Node, f *fieldShape, m protoreflect.Message) {
	switch {
	case f.desc.IsMap():
		o.mapping(k, v, f, m)
	case f.desc.IsList():
		o.list(k, v, f, m)
	case f.message != nil:
		o.message(k, v, f.message, m.Mutable(f.desc).Message())
	default:
		if x, ok := o.scalar(k, v, f.desc); ok {
			m.Set(f.desc, x)
		}
	}
}

// list reads a list. A null element is an empty message, or an empty text (authorization-policy §1.1).
func (o *objectDecoder) list(k, v *yaml.Node, f *fieldShape, m protoreflect.Message) {
	if v.Kind != yaml.SequenceNode {
		want := wantTexts
		if f.message != nil {
			want = "a list of objects"
		}
		o.wrongType(k, v, want)
		return
	}
	if len(v.Content) == 0 {
		return
	}
	list := m.Mutable(f.desc).List()
	for i, e := range v.Content {
		if o.stopped() {
			return
		}
		o.pushIndex(i)
		if e = resolved(e); f.message != nil {
			element := list.AppendMutable().Message()
			o.message(e, e, f.message, element)
		} else if x, ok := o.scalar(e, e, f.desc); ok {
			list.Append(x)
		}
		o.pop()
	}
}

// mapping reads a map. A null value is an empty message.
func (o *objectDecoder) mapping(k, v *yaml.Node, f *fieldShape, m protoreflect.Message) {
	if v.Kind != yaml.MappingNode {
		o.wrongType(k, v, wantObject)
		return
	}
	entries := m.Mutable(f.desc).Map()
	content := o.entries(v)
	for i := 0; i+1 < len(content) && !o.stopped(); i += 2 {
		ek, ev := content[i], resolved(content[i+1])
		name, ok := o.key(ek)
		if !ok {
			continue
		}
		o.pushKey(name)
		if id, ok := o.mapKey(ek, name, f.desc.MapKey()); ok {
			o.mapEntry(ek, ev, f, entries, id)
		}
		o.pop()
	}
}

func (o *objectDecoder) mapEntry(k, v *yaml.Node, f *fieldShape, entries protoreflect.Map, id protoreflect.MapKey) {
	if entries.Has(id) {
		o.report(codeDuplicateKey, k, quoted(id.String())+" is given twice", "keep one of the two")
		return
	}
	if f.message != nil {
		o.message(k, v, f.message, entries.Mutable(id).Message())
	} else if x, ok := o.scalar(k, v, f.desc.MapValue()); ok {
		entries.Set(id, x)
	}
}

// mapKey reads a key that is text, or a whole decimal number.
func (o *objectDecoder) mapKey(k *yaml.Node, name string, fd protoreflect.FieldDescriptor) (protoreflect.MapKey, bool) {
	if fd.Kind() == protoreflect.StringKind {
		return protoreflect.ValueOfString(name).MapKey(), true
	}
	n, err := strconv.ParseUint(name, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != name {
		o.report(codeNumber, k, fmt.Sprintf("want a whole number from 0 to %d as key, got %s", uint32(math.MaxUint32), quoted(name)), "")
		return protoreflect.MapKey{}, false
	}
	return protoreflect.ValueOfUint32(uint32(n)).MapKey(), true
}

// scalar reads one value of a field that is neither object, list nor map.
func (o *objectDecoder) scalar(k, v *yaml.Node, fd protoreflect.FieldDescriptor) (protoreflect.Value, bool) {
	switch fd.Kind() {
	case protoreflect.StringKind:
		x, ok := o.text(k, v)
		return protoreflect.ValueOfString(x), ok
	case protoreflect.BoolKind:
		x, ok := o.boolean(k, v)
		return protoreflect.ValueOfBool(x), ok
	case protoreflect.Uint32Kind:
		x, ok := o.integer(k, v, 0, math.MaxUint32)
		return protoreflect.ValueOfUint32(uint32(x)), ok //nolint:gosec // integer has checked the range
	case protoreflect.Int32Kind:
		x, ok := o.integer(k, v, math.MinInt32, math.MaxInt32)
		return protoreflect.ValueOfInt32(int32(x)), ok //nolint:gosec // integer has checked the range
	case protoreflect.Uint64Kind:
		x, ok := o.integer(k, v, 0, math.MaxInt64)
		return protoreflect.ValueOfUint64(uint64(x)), ok //nolint:gosec // integer has checked the range
	case protoreflect.DoubleKind:
		x, ok := o.number(k, v)
		return protoreflect.ValueOfFloat64(x), ok
	case protoreflect.EnumKind:
		x, ok := o.enum(k, v, fd.Enum())
		return protoreflect.ValueOfEnum(x), ok
	case protoreflect.MessageKind:
		if x, ok, known := o.wellKnown(k, v, fd.Message().FullName()); known {
			return x, ok
		}
	}
	o.report(codeWrongType, k, fmt.Sprintf("fields of type %s are not supported", fd.Kind()), "")
	return protoreflect.Value{}, false
}

// wellKnown reads a message that is written as one value.
func (o *objectDecoder) wellKnown(k, v *yaml.Node, name protoreflect.FullName) (x protoreflect.Value, ok, known bool) {
	var m proto.Message
	switch name {
	case "google.protobuf.Duration":
		d, read := o.duration(k, v)
		m, ok = durationpb.New(d), read
	case "google.protobuf.BoolValue":
		b, read := o.boolean(k, v)
		m, ok = wrapperspb.Bool(b), read
	case "google.protobuf.UInt32Value":
		n, read := o.integer(k, v, 0, math.MaxUint32)
		m, ok = wrapperspb.UInt32(uint32(n)), read //nolint:gosec // integer has checked the range
	case "google.protobuf.DoubleValue":
		n, read := o.number(k, v)
		m, ok = wrapperspb.Double(n), read
	default:
		return protoreflect.Value{}, false, false
	}
	return protoreflect.ValueOfMessage(m.ProtoReflect()), ok, true
}

// enum reads a name or a known number.
func (o *objectDecoder) enum(k, v *yaml.Node, ed protoreflect.EnumDescriptor) (protoreflect.EnumNumber, bool) {
	if v.Kind != yaml.ScalarNode {
		o.wrongType(k, v, "one of "+strings.Join(enumNames(ed), ", "))
		return 0, false
	}
	var known protoreflect.EnumValueDescriptor
	switch scalarKind(v) {
	case scalarText:
		known = ed.Values().ByName(protoreflect.Name(v.Value))
	case scalarNumber:
		if n, ok := o.integer(k, v, 0, math.MaxInt32); ok {
			known = ed.Values().ByNumber(protoreflect.EnumNumber(n)) //nolint:gosec // integer has checked the range
		} else {
			return 0, false
		}
	case scalarOther:
		o.badTag(v)
		return 0, false
	}
	if known != nil {
		return known.Number(), true
	}
	names := enumNames(ed)
	hint := "one of " + strings.Join(names, ", ")
	if near := nearest(v.Value, names); near != "" {
		hint = "did you mean " + near + "?"
	}
	o.report(codeEnum, v, fmt.Sprintf("%s is no %s", describe(v), ed.Name()), hint)
	return 0, false
}

func enumNames(ed protoreflect.EnumDescriptor) []string {
	names := make([]string, ed.Values().Len())
	for i := range names {
		names[i] = string(ed.Values().Get(i).Name())
	}
	return names
}

// unknownField reports a key that is no field, with the field that was probably meant.
func (o *objectDecoder) unknownField(k *yaml.Node, name string, shape *messageShape) {
	o.push(name)
	defer o.pop()
	o.report(codeUnknownField, k, "unknown field "+quoted(name), fieldHint(name, shape))
}

func fieldHint(name string, shape *messageShape) string {
	for _, outer := range shape.names { // source fields directly in from, operation fields directly in to
		if f := shape.fields[outer]; f.message != nil && f.message.fields[name] != nil {
			return fmt.Sprintf("%s belongs inside %s", name, outer)
		}
	}
	if near := nearest(name, shape.names); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	return "known fields: " + strings.Join(shape.names, ", ")
}
