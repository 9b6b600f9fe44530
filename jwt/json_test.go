package jwt_test

import (
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/writ-auth/writ/jwt"
)

var jsonSeeds = []string{
	`{}`, ` {"a":1} `, `{"a":{"b":[1,-2.5e3,true,false,null,"x"]}}`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":{"b":1,"b":1}}`,
	`{"\ud83d\ude00":"\ud83d"}`, `{"x":"\ude00"}`, "{\"x\":\"\xff\"}", `{"n":1e999}`, `{"n":-0}`, `{"n":01}`, `{"n":1.}`, `{"n":.5}`,
	`{"n":+1}`, `{"n":0x1}`, `{"n":NaN}`, `{'a':1}`, `{a:1}`, `{"a":1,}`, `{"a":[1,]}`, `{"a" : [ ] , "b" : { } }`, `[]`, `null`, `"x"`,
	`{"a":1}x`, `{"a":"` + "\t" + `"}`, `{"a":"\x"}`, `{"a":"\u00g0"}`, `{"a":tru}`, `{"a"}`, `{"a":}`, `{`, `{"a":"`, `{"a":[`, ``, `{"a":1 2}`,
	`{"":{"":{"":"deep"}}}`, `{"a":"\\\"\/\b\f\n\r\té"}`, strings.Repeat(`{"a":`, 99) + "1" + strings.Repeat("}", 99), "\ufeff{}",
	`{"a":` + strings.Repeat("9", 400) + `}`, `{"a":0.` + strings.Repeat("9", 400) + `}`, `{"a":1E+2,"b":1e-400}`,
}

func TestJSON(t *testing.T) {
	for _, text := range jsonSeeds {
		compareJSON(t, text)
	}
	var many strings.Builder
	for i := range 200 {
		many.WriteString(`"` + strconv.Itoa(i) + `":0,`)
	}
	compareJSON(t, `{`+many.String()+`"x":0}`)
	compareJSON(t, `{`+many.String()+`"7":0}`)
	compareJSON(t, `{`+many.String()+`"199":0}`)
}

// FuzzJSON holds the scanner against encoding/json and the rules it does not have.
func FuzzJSON(f *testing.F) {
	for _, text := range jsonSeeds {
		f.Add(text)
	}
	f.Fuzz(compareJSON)
}

func compareJSON(t *testing.T, text string) {
	names, values, ok := jwt.ScanObject(text)
	want := obviousObject(text)
	if ok != (want != nil) {
		t.Fatalf("%q: accepted %v, want %v", text, ok, want != nil)
	}
	if !ok {
		return
	}
	if len(names) != len(want) {
		t.Fatalf("%q: %d members, want %d", text, len(names), len(want))
	}
	for i, name := range names {
		compareValue(t, values[i], want[name])
	}
}

func compareValue(t *testing.T, v jwt.Value, want any) {
	t.Helper()
	text, isText := v.Str()
	number, isNumber := v.Number()
	list := v.Strings()
	switch want := want.(type) {
	case string:
		if !isText || text != want || !slices.Equal(list, []string{want}) {
			t.Errorf("string %q, want %q", text, want)
		}
	case float64:
		if !isNumber || number != want || list != nil {
			t.Errorf("number %v, want %v", number, want)
		}
	case []any:
		var texts []string
		for _, element := range want {
			if s, ok := element.(string); ok {
				texts = append(texts, s)
			}
		}
		if list == nil || !slices.Equal(list, texts) {
			t.Errorf("list %q, want %q", list, texts)
		}
	case map[string]any:
		if list != nil {
			t.Errorf("list %q of an object", list)
		}
		for name, member := range want {
			compareValue(t, v.Get(name), member)
		}
	default:
		if isText || isNumber || list != nil {
			t.Errorf("%v is something", want)
		}
	}
}

// obviousObject decodes an object as encoding/json does, or returns nil if it is none or breaks a rule of ours.
func obviousObject(text string) map[string]any {
	if !json.Valid([]byte(text)) || !utf8.ValidString(text) || hasHalfPair(text) || deepOrRepeated(text) {
		return nil
	}
	var object map[string]any
	if json.Unmarshal([]byte(text), &object) != nil { // a number beyond a double
		return nil
	}
	return object
}

// hasHalfPair looks for an escaped surrogate without its other half.
func hasHalfPair(text string) bool {
	for i := 0; i+1 < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		if text[i+1] != 'u' {
			i++
			continue
		}
		unit, _ := strconv.ParseUint(text[i+2:i+6], 16, 32)
		if unit < 0xd800 || unit > 0xdfff {
			continue
		}
		if unit > 0xdbff || i+12 > len(text) || text[i+6:i+8] != `\u` {
			return true
		}
		if low, _ := strconv.ParseUint(text[i+8:i+12], 16, 32); low < 0xdc00 || low > 0xdfff {
			return true
		}
		i += 11
	}
	return false
}

// deepOrRepeated walks the tokens of a valid text.
func deepOrRepeated(text string) bool {
	type level struct {
		names map[string]bool // nil in a list
		name  bool            // a name comes next
	}
	var open []level
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			return false
		}
		var top *level
		if len(open) > 0 {
			top = &open[len(open)-1]
		}
		if name, isText := token.(string); isText && top != nil && top.name {
			if top.names[name] {
				return true
			}
			top.names[name], top.name = true, false
			continue
		}
		switch token {
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
			if len(open) > 0 {
				open[len(open)-1].name = open[len(open)-1].names != nil
			}
		case json.Delim('{'):
			open = append(open, level{names: map[string]bool{}, name: true})
		case json.Delim('['):
			open = append(open, level{})
		default:
			if top != nil {
				top.name = top.names != nil
			}
		}
		if len(open) > jwt.MaxDepth {
			return true
		}
	}
}
