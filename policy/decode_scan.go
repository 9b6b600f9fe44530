package policy

import (
	"bytes"
	"regexp"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"
)

// scanned is what the lines of a text that does not parse still say of the object in it. It is only used to find out
// whom a broken document was meant for: what is not certain is left out and then taken at its widest.
type scanned struct {
	line       int // of the text, 1-based
	apiVersion string
	kind       string
	namespace  string
	name       string
	action     string
	labels     map[string]string
	doubtful   bool // the selector may say more than was understood
}

// document makes a broken document of what was found.
func (s *scanned) document() *Document {
	d := &Document{
		Object:       Object{Kind: s.kind, Namespace: s.namespace, Name: s.name},
		APIVersion:   s.apiVersion,
		actionUnread: true,
		targetUnread: true,
	}
	k := nearKnownKind(s.kind)
	if k == nil {
		return d
	}
	d.Kind, d.Spec = k.kind, k.spec()
	if policy, ok := d.Spec.(*securityv1beta1.AuthorizationPolicy); ok {
		if action, ok := securityv1beta1.AuthorizationPolicy_Action_value[s.action]; ok {
			policy.Action = securityv1beta1.AuthorizationPolicy_Action(action)
			d.actionUnread = false
		}
		if len(s.labels) > 0 && !s.doubtful {
			policy.Selector = &typev1beta1.WorkloadSelector{MatchLabels: s.labels}
			d.targetUnread = false
		}
	}
	return d
}

// scanLine is a line with a key and perhaps a value, of YAML or of indented JSON.
var scanLine = regexp.MustCompile(`^["']?([A-Za-z0-9][A-Za-z0-9_./-]*)["']?\s*:(.*)$`)

// scanPair is a key with a plain value inside braces.
var scanPair = regexp.MustCompile(`["']?\b(apiVersion|kind|namespace|name)["']?\s*:\s*["']?([A-Za-z0-9][A-Za-z0-9./-]*)["']?\s*[,}]`)

// scanMetadata is metadata inside braces, up to the first brace in it.
var scanMetadata = regexp.MustCompile(`["']?\bmetadata["']?\s*:\s*\{[^{}]*\}?`)

// lineScanner follows the indentation of a text.
type lineScanner struct {
	found []scanned
	stack []scanLevel
}

type scanLevel struct {
	indent int
	key    string
}

// scanObjects finds the objects a text seems to hold, at least one. A second apiVersion or kind at the top begins another.
func scanObjects(text []byte) []scanned {
	s := &lineScanner{}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		trimmed := strings.TrimSpace(string(line))
		if trimmed == "" || trimmed[0] == '#' || trimmed == "---" {
			continue
		}
		if len(s.found) == 0 {
			s.found = append(s.found, scanned{line: number})
		}
		s.line(number, len(line)-len(bytes.TrimLeft(line, " \t")), trimmed)
	}
	if len(s.found) == 0 {
		return []scanned{{line: 1}}
	}
	if len(s.found) == 1 && s.found[0].kind == "" {
		s.found[0].inline(text)
	}
	return s.found
}

func (s *lineScanner) line(number, indent int, text string) {
	for len(s.stack) > 0 && s.stack[len(s.stack)-1].indent >= indent {
		s.stack = s.stack[:len(s.stack)-1]
	}
	if text == "-" || strings.HasPrefix(text, "- ") { // nothing inside a list matters here
		s.stack = append(s.stack, scanLevel{indent, "-"})
		return
	}
	match := scanLine.FindStringSubmatch(text)
	if match == nil {
		if len(s.stack) > 1 && s.stack[1].key == "selector" {
			s.found[len(s.found)-1].doubtful = true
		}
		return
	}
	key, value := match[1], scalarValue(match[2])
	if len(s.stack) == 0 && (key == "apiVersion" || key == "kind") && s.found[len(s.found)-1].has(key) {
		s.found = append(s.found, scanned{line: number})
	}
	s.found[len(s.found)-1].set(s.path(), key, value)
	if value == "" || strings.ContainsAny(value[:1], "{[|>&") {
		s.stack = append(s.stack, scanLevel{indent, key})
	}
}

func (s *lineScanner) path() string {
	keys := make([]string, len(s.stack))
	for i, l := range s.stack {
		keys[i] = l.key
	}
	return strings.Join(keys, " ")
}

// scalarValue cuts what follows a key down to its value.
func scalarValue(v string) string {
	v = strings.TrimSuffix(strings.TrimSpace(v), ",")
	if i := strings.Index(v, " #"); i >= 0 {
		v = strings.TrimSpace(v[:i])
	}
	if len(v) > 1 && (v[0] == '"' || v[0] == '\'') && v[len(v)-1] == v[0] {
		v = v[1 : len(v)-1]
	}
	return v
}

func (s *scanned) has(key string) bool {
	return key == "apiVersion" && s.apiVersion != "" || key == "kind" && s.kind != ""
}

// set takes a value if it is one of those sought and could be right.
func (s *scanned) set(path, key, value string) {
	switch path {
	case "":
		switch key {
		case "apiVersion":
			s.apiVersion = value
		case "kind":
			s.kind = value
		case "metadata":
			s.inlineMetadata(value)
		}
	case "metadata":
		switch {
		case key == "name" && isSubdomain(value):
			s.name = value
		case key == "namespace" && isLabel(value):
			s.namespace = value
		}
	case "spec":
		switch key {
		case "action":
			if s.action != "" && s.action != value {
				value = "?"
			}
			s.action = value
		case "selector", "targetRef", "targetRefs":
			s.doubtful = s.doubtful || key != "selector" || value != "" && value != "{"
		}
	case "spec selector matchLabels":
		if strings.ContainsAny(value, "{}[]|>&*!\"'\\ ") || value == "" {
			s.doubtful = true
			return
		}
		if s.labels == nil {
			s.labels = map[string]string{}
		}
		s.labels[key] = value
	}
}

// inline reads an object that is written on one line, as JSON often is.
func (s *scanned) inline(text []byte) {
	for _, m := range scanPair.FindAllSubmatch(text, -1) {
		switch key, value := string(m[1]), string(m[2]); {
		case key == "apiVersion" && s.apiVersion == "":
			s.apiVersion = value
		case key == "kind" && s.kind == "":
			s.kind = value
		}
	}
	s.inlineMetadata(string(scanMetadata.Find(text)))
}

func (s *scanned) inlineMetadata(text string) {
	for _, m := range scanPair.FindAllStringSubmatch(text, -1) {
		s.set("metadata", m[1], m[2])
	}
}
