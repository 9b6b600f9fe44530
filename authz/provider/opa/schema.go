package opa

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// shape is a message type as protobuf JSON shows it, prepared for decoding straight from the wire.
type shape struct {
	fields   []shapeField
	byNumber []int16 // index into fields by field number, -1 for none
	special  special
}

// shapeField is one field of a message.
type shapeField struct {
	name     string
	key      *ast.Term // the name, made once
	kind     protoreflect.Kind
	list     bool
	mapped   bool // a map with text for keys; message and kind are those of its values
	presence bool // shown when it was sent, even if it is zero
	oneof    int  // index among the message's oneofs, -1 for none
	message  *shape
	enum     protoreflect.EnumDescriptor
}

// special are messages that protobuf JSON shows in a form of their own.
type special uint8

const (
	plain special = iota
	isTimestamp
	isDuration
	isWrapper // google.protobuf.UInt32Value and its like: the value alone
	isStruct
	isValue
	isList
	isAny
)

// maxFields is how many fields a message on the way may have: a table of that size is on the stack while decoding.
const maxFields = 32

// shapes makes the shapes of message types, each once.
type shapes map[protoreflect.FullName]*shape

func (all shapes) of(d protoreflect.MessageDescriptor) *shape {
	if s, ok := all[d.FullName()]; ok {
		return s
	}
	s := &shape{special: specialOf(d)}
	all[d.FullName()] = s
	if s.special != plain && s.special != isWrapper {
		return s
	}
	fields := d.Fields()
	most := protoreflect.FieldNumber(0)
	for i := range min(fields.Len(), maxFields) {
		s.fields = append(s.fields, all.field(fields.Get(i)))
		most = max(most, fields.Get(i).Number())
	}
	s.byNumber = make([]int16, most+1)
	for i := range s.byNumber {
		s.byNumber[i] = -1
	}
	for i := range s.fields {
		s.byNumber[fields.Get(i).Number()] = int16(i) //nolint:gosec // at most maxFields
	}
	return s
}

func (all shapes) field(d protoreflect.FieldDescriptor) shapeField {
	f := shapeField{
		name: d.JSONName(), key: ast.StringTerm(d.JSONName()), kind: d.Kind(), list: d.IsList(), mapped: d.IsMap(),
		presence: d.HasPresence(), oneof: -1,
	}
	value := d
	if f.mapped {
		value = d.MapValue()
		f.kind = value.Kind()
	}
	if value.Message() != nil {
		f.message = all.of(value.Message())
	}
	f.enum = value.Enum()
	if o := d.ContainingOneof(); o != nil && !o.IsSynthetic() {
		f.oneof = o.Index()
	}
	return f
}

func specialOf(d protoreflect.MessageDescriptor) special {
	if d.FullName().Parent() != "google.protobuf" {
		return plain
	}
	switch d.Name() {
	case "Timestamp":
		return isTimestamp
	case "Duration":
		return isDuration
	case "Struct":
		return isStruct
	case "Value":
		return isValue
	case "ListValue":
		return isList
	case "Any":
		return isAny
	case "DoubleValue", "FloatValue", "Int64Value", "UInt64Value", "Int32Value", "UInt32Value", "BoolValue", "StringValue", "BytesValue":
		return isWrapper
	}
	return plain
}
