package policytest

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/writ-auth/writ/policy"
)

// side is one dimension of a matrix: a field of the request with its alternatives.
type side struct {
	name   string
	values []*yaml.Node
	words  []string // of each value, in the names of cases
	path   string
}

// test reads one test and adds its cases to the suite.
func (b *suiteDecoder) test(n *yaml.Node, path string) {
	s := b.defaults.clone()
	if s.request.Method == "" {
		s.request.Method, s.request.Path = "GET", "/"
	}
	s.request.line = false
	base := Case{Suite: b.suite.Name, File: b.file, Line: n.Line, Column: n.Column, path: path}
	var sides []side
	expected := false
	b.object(n, path, append(b.setupFields(&s), []field{
		{"name", b.set(&base.Name)},
		{"matrix", func(n *yaml.Node, path string) { sides = b.matrix(n, path) }},
		{"expect", func(n *yaml.Node, path string) { base.Expect, expected = b.expect(n, path), true }},
	}...))
	if n.Kind != yaml.MappingNode {
		return
	}
	if strings.TrimSpace(base.Name) == "" {
		b.problem(n, path+".name", "missing: a test is known by its name")
	}
	if !expected {
		b.problem(n, path+".expect", "missing: a test that expects nothing cannot fail")
	}
	combinations := 1
	for _, side := range sides {
		combinations *= len(side.values)
		if combinations+b.cases > MaxCases {
			b.problem(n, path+".matrix", "the tests of this file are more than %d: split it", MaxCases)
			return
		}
	}
	b.cases += combinations
	b.expand(base, &s, sides, nil)
}

// matrix reads the sides of a matrix. Their values are read when they are applied, in every combination.
func (b *suiteDecoder) matrix(n *yaml.Node, path string) []side {
	var sides []side
	var known []string
	for _, f := range b.requestFields(&Request{}) {
		known = append(known, f.name)
	}
	b.entries(n, path, func(key, value *yaml.Node, path string) {
		s := side{name: key.Value, path: path}
		b.items(value, path, func(n *yaml.Node, _ string) {
			word := b.valueName(n)
			if slices.Contains(s.words, word) {
				word += fmt.Sprintf(" #%d", len(s.words)+1)
			}
			s.values, s.words = append(s.values, n), append(s.words, word)
		})
		switch {
		case !slices.Contains(known, key.Value):
			b.problem(key, path, "unknown key%s", b.suggest(key.Value, known))
		case value.Kind == yaml.SequenceNode && len(s.values) == 0:
			b.problem(value, path, "an empty list would leave no test")
		default:
			sides = append(sides, s)
		}
	})
	return sides
}

// expand applies each value of the first side, and goes on with the others.
func (b *suiteDecoder) expand(c Case, s *setup, sides []side, name []string) {
	if len(sides) == 0 {
		if len(name) > 0 {
			c.Name += " [" + strings.Join(name, " ") + "]"
		}
		b.add(c, s)
		return
	}
	first := &sides[0]
	for i, value := range first.values {
		one := s.clone()
		for _, f := range b.requestFields(&one.request) {
			if f.name == first.name {
				before := len(b.problems)
				f.read(value, fmt.Sprintf("%s[%d]", first.path, i))
				if len(b.problems) > before { // the same in every combination: said once
					return
				}
			}
		}
		b.expand(c, &one, sides[1:], append(name[:len(name):len(name)], first.name+"="+first.words[i]))
	}
}

// valueName is a value of a matrix as the name of a case has it.
func (b *suiteDecoder) valueName(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode {
		if isNull(n) {
			return "none"
		}
		return short(n.Value)
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return "?"
	}
	return short(v)
}

// add checks what only the whole case shows, and adds it.
func (b *suiteDecoder) add(c Case, s *setup) {
	c.Request, c.Providers, c.Time = s.request, s.providers, s.time
	at := &yaml.Node{Line: c.Line, Column: c.Column}
	r := &c.Request
	wrong := func(text string) {
		said := func(p Problem) bool { return p.Field == c.path && strings.HasSuffix(p.Message, text) }
		if !slices.ContainsFunc(b.problems, said) { // once for all combinations
			b.problem(at, c.path, "%q: %s", c.Name, text)
		}
	}
	switch {
	case r.ToName == "":
		wrong("whom is the request for? Write to: in its request, or in defaults")
	case r.TCP && (r.Host != "" || len(r.Headers) > 0 || r.Claims != nil || r.line):
		wrong("a TCP connection has no method, path, host, headers and token: leave them out, or tcp")
	case r.Claims != nil && (r.ClaimsAt == "" || r.ClaimsAt == DefaultPlace) && hasHeader(r, "authorization"):
		wrong("unverified_claims and the header authorization say the same: leave one of them out")
	case c.Time.IsZero() && (r.Claims["exp"] != nil || r.Claims["nbf"] != nil):
		wrong("a token with times is judged by the clock, and the test would not stay true: write time:")
	}
	b.suite.Cases = append(b.suite.Cases, c)
}

func hasHeader(r *Request, name string) bool {
	return slices.ContainsFunc(r.Headers, func(h policy.Header) bool { return h.Name == name })
}
