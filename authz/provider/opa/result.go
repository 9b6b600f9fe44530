package opa

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/writ-auth/writ/authz"
)

func intText(n int) string { return strconv.Itoa(n) }

// readResult turns what a policy says into an answer: a boolean, or an object as OPA's Envoy plugin takes it. Anything
// else is an error, and so is an object with a member of the wrong type: half an answer is none.
func readResult(v ast.Value, a *authz.Answer) error {
	switch v := v.(type) {
	case ast.Boolean:
		a.Allow = bool(v)
		return nil
	case ast.Object:
		return readObject(v, a)
	}
	return fmt.Errorf("the decision is %s, neither a boolean nor an object", typeOf(v))
}

// typeOf is the type of a value in words, null for the value of a missing term.
func typeOf(v ast.Value) string {
	if v == nil {
		return "undefined"
	}
	return "of type " + ast.ValueName(v)
}

func readObject(o ast.Object, a *authz.Answer) (err error) {
	allowed := member(o, "allowed")
	b, ok := allowed.(ast.Boolean)
	if !ok {
		return fmt.Errorf("allowed is %s, not a boolean", typeOf(allowed))
	}
	headers := &a.RequestHeaders
	if !b {
		headers = &a.ResponseHeaders
		if err = readDenial(o, a); err != nil {
			return err
		}
	}
	if *headers, err = readHeaders(*headers, member(o, "headers"), "headers", authz.HeaderOverwrite); err != nil {
		return err
	}
	if b {
		if err = readAllowance(o, a); err != nil {
			return err
		}
	}
	if a.Metadata, err = readMetadata(member(o, "dynamic_metadata")); err != nil {
		return err
	}
	a.Allow = bool(b)
	return nil
}

// readDenial reads what only a denial has.
func readDenial(o ast.Object, a *authz.Answer) error {
	if body := member(o, "body"); body != nil {
		text, ok := body.(ast.String)
		if !ok {
			return fmt.Errorf("body is %s, not a string", typeOf(body))
		}
		a.Body = string(text)
	}
	if status := member(o, "http_status"); status != nil {
		number, _ := status.(ast.Number)
		code, ok := number.Int()
		if !ok || !authz.IsProviderStatus(code) {
			return fmt.Errorf("http_status is %s, not a number from 200 to 599", brief(status))
		}
		a.Status = code
	}
	return nil
}

// readAllowance reads what only an allow has.
func readAllowance(o ast.Object, a *authz.Answer) (err error) {
	a.ResponseHeaders, err = readHeaders(a.ResponseHeaders, member(o, "response_headers_to_add"), "response_headers_to_add", authz.HeaderAppendOrAdd)
	if err != nil {
		return err
	}
	if a.RemoveHeaders, err = readStrings(a.RemoveHeaders, member(o, "request_headers_to_remove"), "request_headers_to_remove"); err != nil {
		return err
	}
	if a.RemoveParams, err = readStrings(a.RemoveParams, member(o, "query_parameters_to_remove"), "query_parameters_to_remove"); err != nil {
		return err
	}
	return eachText(member(o, "query_parameters_to_set"), "query_parameters_to_set", func(name, value string) {
		a.SetParams = append(a.SetParams, authz.Param{Name: name, Value: value})
	})
}

func member(o ast.Object, name string) ast.Value {
	if t := o.Get(ast.InternedTerm(name)); t != nil {
		return t.Value
	}
	return nil
}

// brief is a value for a message: policies may put anything into a result.
func brief(v ast.Value) string {
	text := v.String()
	if len(text) > 40 {
		return typeOf(v)
	}
	return text
}

func readHeaders(into []authz.HeaderChange, v ast.Value, field string, how authz.HeaderAppend) ([]authz.HeaderChange, error) {
	add := func(name, value string) {
		into = append(into, authz.HeaderChange{Name: name, Value: value, Append: how})
	}
	list, ok := v.(*ast.Array)
	if !ok {
		return into, eachText(v, field, add)
	}
	for i := range list.Len() {
		item := list.Elem(i).Value
		if _, ok := item.(ast.Object); !ok {
			return nil, fmt.Errorf("%s[%d] is %s, not an object", field, i, typeOf(item))
		}
		if err := eachText(item, field, add); err != nil {
			return nil, err
		}
	}
	return into, nil
}

// eachText goes through an object whose values are text or lists of text.
func eachText(v ast.Value, field string, visit func(name, value string)) error {
	if v == nil {
		return nil
	}
	o, ok := v.(ast.Object)
	if !ok {
		return fmt.Errorf("%s is %s, not an object", field, typeOf(v))
	}
	return o.Iter(func(k, v *ast.Term) error {
		name, ok := k.Value.(ast.String)
		if !ok {
			return fmt.Errorf("%s has a name %s", field, typeOf(k.Value))
		}
		if text, ok := v.Value.(ast.String); ok {
			visit(string(name), string(text))
			return nil
		}
		texts, err := readStrings(nil, v.Value, field+"."+string(name))
		for _, text := range texts {
			visit(string(name), text)
		}
		return err
	})
}

// readStrings reads a list or a set of text.
func readStrings(into []string, v ast.Value, field string) ([]string, error) {
	if v == nil {
		return into, nil
	}
	add := func(t *ast.Term) error {
		text, ok := t.Value.(ast.String)
		if !ok {
			return fmt.Errorf("%s holds a value %s, not a string", field, typeOf(t.Value))
		}
		into = append(into, string(text))
		return nil
	}
	var err error
	switch v := v.(type) {
	case *ast.Array:
		err = v.Iter(add)
	case ast.Set: // in JSON, which the plugin goes through, a set is a list
		err = v.Iter(add)
	default:
		err = fmt.Errorf("%s is %s, not a list of strings", field, typeOf(v))
	}
	return into, err
}

func readMetadata(v ast.Value) (map[string]any, error) {
	if v == nil {
		return nil, nil
	}
	if _, ok := v.(ast.Object); !ok {
		return nil, fmt.Errorf("dynamic_metadata is %s, not an object", typeOf(v))
	}
	plain, err := ast.JSON(v)
	if err != nil {
		return nil, fmt.Errorf("dynamic_metadata: %w", err)
	}
	m, ok := floats(plain).(map[string]any)
	if !ok {
		return nil, fmt.Errorf("dynamic_metadata is %s, not an object", typeOf(v))
	}
	return m, nil
}

// floats replaces OPA's numbers, which are text, with those that protobuf's Struct holds.
func floats(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, err := v.Float64()
		if err != nil || math.IsInf(f, 0) {
			return v.String()
		}
		return f
	case []any:
		for i := range v {
			v[i] = floats(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = floats(v[k])
		}
	}
	return v
}
