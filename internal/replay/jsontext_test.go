package replay

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

// FuzzMembers holds the scanner to encoding/json: it finds the members of every object, and what else it takes for one
// would be read the same by whoever wrote it.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":1}`, ` { "a" : "b\"c" , "d" : [1,{"e":"}"}] } `, `{"a":null,"b":true,"a":"\u00e9"}`, `{"a":"\\"}`, `[]`, `{"a":1,}`, `{"a"}`, `{"a":1`, `"x"`, `{"a":}`, `{a:1}`,
		`{"a":[}`, `{"a":1}}`, `{"":""}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) { // encoding/json replaces what is not; the scanner leaves it
			return
		}
		got := map[string]string{}
		err := members(text, func(key, value string) error {
			got[key] = value
			return nil
		})
		var want map[string]json.RawMessage
		if json.Unmarshal([]byte(text), &want) != nil || want == nil {
			return
		}
		if err != nil || len(got) != len(want) {
			t.Fatalf("%q: %v, %d members, want %d", text, err, len(got), len(want))
		}
		for key, value := range want {
			if got[key] != string(value) {
				t.Errorf("%q: %q is %q, want %q", text, key, got[key], value)
			}
			var s string
			if value[0] == '"' && json.Unmarshal(value, &s) == nil {
				if text, ok := unquote(got[key]); !ok || text != s {
					t.Errorf("unquote %s: %q", value, text)
				}
			}
		}
	})
}

func TestScannerRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{``, `x`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,}`, `{"a":"b}`, `{"a":[1}`, `{"a":1}x`, `{"a" 1}`, `[1]`, `{"a":{"b":[}}}`} {
		if err := members(text, func(string, string) error { return nil }); err == nil {
			t.Errorf("%q is taken for an object", text)
		}
	}
}
