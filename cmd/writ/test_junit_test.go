package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestJUnitXSD: a report of tests that pass, fail and cannot be told is valid by the schema of the Jenkins xUnit plug-in.
func TestJUnitXSD(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"a_test.yaml": unsure, "policies/old.yaml": oldSystem})
	report, err := writ(t, "test", dir, "-o", "junit").Output()
	if err == nil {
		t.Error("a test that fails is no failure")
	}
	out := string(report)
	for _, want := range []string{"<failure ", "<error ", `tests="3"`} {
		if !strings.Contains(out, want) {
			t.Fatalf("no %s in\n%s", want, out)
		}
	}
	schema := readXSD(t, "testdata/schema/junit-10.xsd")
	if err := schema.validate(out); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for what, broken := range map[string]string{
		"unknown attribute": strings.Replace(out, "<testcase ", `<testcase line="1" `, 1),
		"missing attribute": strings.Replace(out, `failures="1"`, "", 2),
		"unknown element":   strings.Replace(out, "<testcase ", "<case/><testcase ", 1),
		"wrong place":       strings.Replace(out, "<testcase ", `<failure/><testcase `, 1),
		"text":              strings.Replace(out, "<testcase ", `text<testcase `, 1),
		"wrong time":        regexp.MustCompile(`time="[^"]*"`).ReplaceAllString(out, `time="1s"`),
	} {
		if broken == out || schema.validate(broken) == nil {
			t.Errorf("%s: the schema takes it", what)
		}
	}
}

// xsd is the part of XML Schema that the schema of JUnit is written in: elements named by reference, in any order or number,
// attributes and patterns. Reading a schema with anything else fails.
type xsd struct {
	elements map[string]xsdType
	types    map[string]xsdType
	patterns map[string]*regexp.Regexp
}

type xsdType struct {
	text     bool
	required []string
	attrs    map[string]string // name to type
	children []string
}

type xsdNode struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Children []xsdNode  `xml:",any"`
}

func (n *xsdNode) attr(name string) string {
	for _, a := range n.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func readXSD(t *testing.T, file string) *xsd {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var root xsdNode
	if err := xml.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	s := &xsd{elements: map[string]xsdType{}, types: map[string]xsdType{"xs:string": {text: true}}, patterns: map[string]*regexp.Regexp{}}
	for i := range root.Children {
		n := &root.Children[i]
		switch n.XMLName.Local {
		case "simpleType":
			pattern := n.Children[0].Children[0]
			s.patterns[n.attr("name")] = regexp.MustCompile("^(?:" + pattern.attr("value") + ")$")
		case "complexType":
			s.types[n.attr("name")] = complexType(t, n)
		case "element":
			if len(n.Children) == 1 {
				s.elements[n.attr("name")] = complexType(t, &n.Children[0])
			}
		default:
			t.Fatalf("%s: %s is not understood", file, n.XMLName.Local)
		}
	}
	for i := range root.Children {
		if n := &root.Children[i]; n.XMLName.Local == "element" && n.attr("type") != "" {
			s.elements[n.attr("name")] = s.types[n.attr("type")]
		}
	}
	return s
}

func complexType(t *testing.T, n *xsdNode) xsdType {
	t.Helper()
	out := xsdType{text: n.attr("mixed") == "true", attrs: map[string]string{}}
	var visit func(n *xsdNode)
	visit = func(n *xsdNode) {
		for i := range n.Children {
			c := &n.Children[i]
			switch c.XMLName.Local {
			case "attribute":
				out.attrs[c.attr("name")] = c.attr("type")
				if c.attr("use") == "required" {
					out.required = append(out.required, c.attr("name"))
				}
			case "element":
				out.children = append(out.children, c.attr("ref")+c.attr("name"))
			case "sequence", "choice": // all that the schema orders or counts are reruns, of which writ has none
				visit(c)
			default:
				t.Fatalf("%s is not understood", c.XMLName.Local)
			}
		}
	}
	visit(n)
	return out
}

func (s *xsd) validate(text string) error {
	d := xml.NewDecoder(strings.NewReader(text))
	var open []string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch token := token.(type) {
		case xml.StartElement:
			name := token.Name.Local
			if len(open) > 0 && !slices.Contains(s.elements[open[len(open)-1]].children, name) {
				return fmt.Errorf("%s in %s", name, open[len(open)-1])
			}
			if err := s.attributes(token); err != nil {
				return err
			}
			open = append(open, name)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 && strings.TrimSpace(string(token)) != "" && !s.elements[open[len(open)-1]].text {
				return fmt.Errorf("text in %s: %q", open[len(open)-1], token)
			}
		}
	}
}

func (s *xsd) attributes(e xml.StartElement) error {
	element, ok := s.elements[e.Name.Local]
	if !ok {
		return fmt.Errorf("unknown element %s", e.Name.Local)
	}
	seen := map[string]bool{}
	for _, a := range e.Attr {
		kind, ok := element.attrs[a.Name.Local]
		if !ok {
			return fmt.Errorf("%s has no attribute %s", e.Name.Local, a.Name.Local)
		}
		if p := s.patterns[kind]; p != nil && !p.MatchString(a.Value) {
			return fmt.Errorf("%s %s=%q is no %s", e.Name.Local, a.Name.Local, a.Value, kind)
		}
		seen[a.Name.Local] = true
	}
	for _, name := range element.required {
		if !seen[name] {
			return fmt.Errorf("%s lacks %s", e.Name.Local, name)
		}
	}
	return nil
}
