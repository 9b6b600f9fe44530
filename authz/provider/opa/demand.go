package opa

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// demand is what of a document policies may look at: all of it, or some of its members. A nil demand is nothing.
type demand struct {
	all     bool
	members map[string]*demand
}

// everything is the demand for a whole document.
func everything() *demand { return &demand{all: true} }

// of is the demand for one member.
func (d *demand) of(name string) *demand {
	if d == nil || d.all {
		return d
	}
	return d.members[name]
}

// add demands the document at path, and all that is in it.
func (d *demand) add(path []string) {
	for _, name := range path {
		if d.all {
			return
		}
		if d.members == nil {
			d.members = map[string]*demand{}
		}
		next := d.members[name]
		if next == nil {
			next = &demand{}
			d.members[name] = next
		}
		d = next
	}
	d.all, d.members = true, nil
}

// demanded finds out what of the input compiled modules mention. Everything that reads the input is a reference that
// begins with it: its constant part says where, and what follows may be anywhere below. A bare `input`, as an argument
// or to be walked through, is everything.
func demanded(modules map[string]*ast.Module) *demand {
	d := &demand{}
	var visit func(x any) (done bool)
	visit = func(x any) bool {
		switch x := x.(type) {
		case ast.Ref:
			if len(x) == 0 || !x[0].Equal(ast.InputRootDocument) {
				return false
			}
			d.add(constantPath(x[1:]))
			for _, t := range x[1:] { // a reference may hold others: input.a[input.b]
				ast.NewGenericVisitor(visit).Walk(t)
			}
			return true
		case ast.Var:
			if x.Equal(ast.InputRootDocument.Value) {
				d.add(nil)
			}
		}
		return false
	}
	for _, m := range modules {
		ast.NewGenericVisitor(visit).Walk(m)
	}
	return d
}

// constantPath is the leading part of a reference that consists of names.
func constantPath(ref ast.Ref) []string {
	var path []string
	for _, t := range ref {
		name, ok := t.Value.(ast.String)
		if !ok {
			break
		}
		path = append(path, string(name))
	}
	return path
}
