package jwt

// MaxDepth is the bound on nesting.
const MaxDepth = maxDepth

// ScanObject returns the members of a JSON object as the verifier reads them.
func ScanObject(text string) (names []string, values []Value, ok bool) {
	members, ok := new(workspace).scanObject(text)
	for _, m := range members {
		names, values = append(names, m.name), append(values, Value{m.value})
	}
	return names, values, ok
}

// Value is a scanned JSON value.
type Value struct{ value value }

// Get is a member of an object, by its name.
func (v Value) Get(name string) Value { return Value{v.value.get(name)} }

// Str, Number and Strings read a value as its kind.
func (v Value) Str() (string, bool)     { return v.value.str() }
func (v Value) Number() (float64, bool) { return v.value.number() }
func (v Value) Strings() []string       { return v.value.strings() }
