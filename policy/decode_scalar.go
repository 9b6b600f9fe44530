package policy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Short tags of YAML.
const (
	mergeTag  = "!!merge"
	stringTag = "!!str"
)

// scalarType is what YAML 1.1 takes a scalar for. Istio and Kubernetes read documents by YAML 1.1, the parser used here
// goes by 1.2, where y and no are texts; what is a boolean there must not be taken for text here.
type scalarType uint8

const (
	scalarText scalarType = iota
	scalarNull
	scalarBool
	scalarNumber
	scalarOther // explicit tag that Kubernetes objects do not have
)

// scalarKind classifies a scalar. Quoted ones are text.
func scalarKind(n *yaml.Node) scalarType {
	if n.Style&yaml.TaggedStyle != 0 && n.Tag != stringTag {
		return scalarOther
	}
	const notPlain = yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle | yaml.TaggedStyle
	if n.Style&notPlain != 0 || n.Tag == "!" {
		return scalarText
	}
	return plainKind(n.Value)
}

func plainKind(v string) scalarType {
	if v == "" {
		return scalarNull
	}
	switch v[0] {
	case '~', 'n', 'N', 'y', 'Y', 't', 'T', 'f', 'F', 'o', 'O':
		return wordKind(v)
	case '+', '-', '.', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		if isNumber(v) {
			return scalarNumber
		}
	}
	return scalarText
}

// wordKind knows the words of YAML 1.1. Each is special in lower case, capitalised and in upper case only.
func wordKind(v string) scalarType {
	if len(v) > len("false") {
		return scalarText
	}
	lower, upper := strings.ToLower(v), strings.ToUpper(v)
	if v != lower && v != upper && v != upper[:1]+lower[1:] {
		return scalarText
	}
	switch lower {
	case "~", "null":
		return scalarNull
	case "y", "n", "yes", "no", "on", "off", "true", "false":
		return scalarBool
	}
	return scalarText
}

var floatNumber = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)

// isNumber reports whether YAML 1.1 reads v as an integer (decimal, octal, hexadecimal, binary, with underscores) or
// as a floating-point number.
func isNumber(v string) bool {
	if _, rest, found := strings.Cut(v, "."); found && strings.Contains(rest, ".") {
		return false // addresses and versions, the common case
	}
	plain := strings.ReplaceAll(v, "_", "")
	if _, err := strconv.ParseInt(plain, 0, 64); err == nil {
		return true
	}
	if _, err := strconv.ParseUint(plain, 0, 64); err == nil {
		return true
	}
	switch strings.ToLower(strings.TrimLeft(v, "+-")) {
	case ".inf", ".nan":
		return true
	}
	return floatNumber.MatchString(plain)
}

// isNull reports a null value, which leaves a field absent.
func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && scalarKind(n) == scalarNull
}

// Wanted types, in the words of messages.
const (
	wantText   = "text"
	wantTexts  = "a list of texts"
	wantObject = "an object"
)

// text reads a scalar as a string. A null is the empty string, as in Istio: it is an element of a list here, a null
// field never comes this far.
func (o *objectDecoder) text(key, n *yaml.Node) (string, bool) {
	if n.Kind != yaml.ScalarNode {
		o.wrongType(key, n, wantText)
		return "", false
	}
	switch scalarKind(n) {
	case scalarText:
		return n.Value, true
	case scalarNull:
		return "", true
	case scalarBool:
		o.report(codeBooleanText, n, fmt.Sprintf("unquoted %s is a boolean in YAML 1.1, text is wanted", n.Value), "write "+strconv.Quote(n.Value))
	case scalarNumber:
		o.report(codeNumberText, n, fmt.Sprintf("unquoted %s is a number, text is wanted", n.Value), "write "+strconv.Quote(n.Value))
	case scalarOther:
		o.badTag(n)
	}
	return "", false
}

func (o *objectDecoder) badTag(n *yaml.Node) {
	o.report(codeTag, n, "unsupported YAML tag "+quoted(n.Tag), "write the value without a tag, in quotes if it is text")
}

// boolean reads true and false and the other words that YAML 1.1 has for them.
func (o *objectDecoder) boolean(key, n *yaml.Node) (value, ok bool) {
	if n.Kind != yaml.ScalarNode || scalarKind(n) != scalarBool {
		o.wrongType(key, n, "true or false")
		return false, false
	}
	switch strings.ToLower(n.Value) {
	case "y", "yes", "on", "true":
		return true, true
	}
	return false, true
}

// integer reads a whole decimal number, quoted or not, as Istio does. Other notations are refused: YAML 1.1 and 1.2
// disagree about what 010 is.
func (o *objectDecoder) integer(key, n *yaml.Node, low, high int64) (int64, bool) {
	if n.Kind != yaml.ScalarNode {
		o.wrongType(key, n, "a number")
		return 0, false
	}
	if k := scalarKind(n); k == scalarOther {
		o.badTag(n)
		return 0, false
	}
	v, err := strconv.ParseInt(n.Value, 10, 64)
	if err != nil || v < low || v > high || strconv.FormatInt(v, 10) != n.Value {
		o.report(codeNumber, n, fmt.Sprintf("want a whole number from %d to %d, got %s", low, high, describe(n)), "")
		return 0, false
	}
	return v, true
}

// number reads a decimal number with or without a fraction, quoted or not.
func (o *objectDecoder) number(key, n *yaml.Node) (float64, bool) {
	if n.Kind != yaml.ScalarNode {
		o.wrongType(key, n, "a number")
		return 0, false
	}
	if k := scalarKind(n); k == scalarOther {
		o.badTag(n)
		return 0, false
	}
	v, err := strconv.ParseFloat(n.Value, 64)
	if err != nil || !floatNumber.MatchString(n.Value) {
		o.report(codeNumber, n, "want a decimal number, got "+describe(n), "")
		return 0, false
	}
	return v, true
}

// duration reads Go's notation, which is what Istio takes.
func (o *objectDecoder) duration(key, n *yaml.Node) (time.Duration, bool) {
	v, ok := o.text(key, n)
	if !ok {
		return 0, false
	}
	t, err := time.ParseDuration(v)
	if err != nil {
		o.report(codeDuration, n, quoted(v)+" is not a duration", "write a number and a unit, such as 5s, 1.5s or 500ms")
		return 0, false
	}
	return t, true
}

// key reads the key of an entry. Keys are text; a decimal number is taken by its digits.
func (o *objectDecoder) key(k *yaml.Node) (string, bool) {
	k = resolved(k)
	if k.Kind == yaml.ScalarNode {
		switch scalarKind(k) {
		case scalarText:
			return k.Value, true
		case scalarNumber:
			if v, err := strconv.ParseInt(k.Value, 10, 64); err == nil && strconv.FormatInt(v, 10) == k.Value {
				return k.Value, true
			}
		}
	}
	o.report(codeTag, k, "a key must be text, got "+describe(k), "quote the key")
	return "", false
}
