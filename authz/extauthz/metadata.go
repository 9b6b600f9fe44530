package extauthz

import "errors"

// dynamicMetadata is metadata_context.filter_metadata, kept as bytes and walked when a policy asks: most requests carry
// none and most policies do not ask. It implements [policy.Metadata]. Numbers, booleans, null and objects are
// neither text nor list, so they never match (authorization-policy §1.3 META).
type dynamicMetadata struct {
	parts [][]byte // each occurrence of metadata_context; maps of all of them merge
	out   []string // what List returned last
}

func (m *dynamicMetadata) reset() {
	clear(m.parts)
	clear(m.out)
	m.parts, m.out = m.parts[:0], m.out[:0]
}

func (m *dynamicMetadata) empty() bool { return len(m.parts) == 0 }

var (
	errDeepMetadata = errors.New("metadata nested too deep")
	errManyMetadata = errors.New("metadata_context repeated too often")
	errTwoValues    = errors.New("metadata with two values in one place, which no encoder writes")
)

// add keeps one metadata_context after making sure that all of it can be read, so that a policy never takes
// metadata for absent because it is malformed.
func (m *dynamicMetadata) add(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if err := checkMetadata(b); err != nil {
		return err
	}
	if len(m.parts) == maxMetadata {
		return errManyMetadata
	}
	m.parts = append(m.parts, b)
	return nil
}

// Text implements [policy.Metadata]: the string at one key of one filter's namespace.
func (m *dynamicMetadata) Text(namespace, key string) (string, bool) {
	return textOf(m.value(namespace, key))
}

// List implements [policy.Metadata]: the strings of the list at one key of one filter's namespace.
func (m *dynamicMetadata) List(namespace, key string) []string {
	m.out = appendList(m.out[:0], m.value(namespace, key))
	if len(m.out) == 0 {
		return nil
	}
	return m.out
}

// appendList appends the strings of the list that a Value holds.
func appendList(out []string, value []byte) []string {
	var f, item field
	for b := value; len(b) > 0; {
		if b, _ = f.next(b); f.tag != valueList {
			continue
		}
		for list := f.val; len(list) > 0; {
			if list, _ = item.next(list); item.tag != listValues {
				continue
			}
			if s, ok := textOf(item.val); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

// value finds one Value, nil when there is none. No error can come up on the way: add has seen all of it.
func (m *dynamicMetadata) value(namespace, key string) []byte {
	var fields []byte
	for _, part := range m.parts {
		if v, ok := lookup(part, namespace); ok {
			fields = v
		}
	}
	value, _ := lookup(fields, key)
	return value
}

// textOf is the string that a Value holds, if it holds one.
func textOf(value []byte) (s string, ok bool) {
	var f field
	for len(value) > 0 {
		if value, _ = f.next(value); f.tag == valueString {
			s, ok = bytesAsString(f.val), true
		}
	}
	return s, ok
}

// lookup finds the value of key in a checked Metadata or Struct; the last entry of a key wins.
func lookup(b []byte, key string) (value []byte, found bool) {
	var f field
	for len(b) > 0 {
		b, _ = f.next(b)
		if f.tag != mapField {
			continue
		}
		if k, v, err := entry(f.val); err == nil && k == key {
			value, found = v, true
		}
	}
	return value, found
}

// checkMetadata makes sure that every part of a Metadata message that value may walk is well formed.
func checkMetadata(b []byte) error {
	return eachEntry(b, func(value []byte) error { return checkStruct(value, 0) })
}

func checkStruct(b []byte, depth int) error {
	if depth > maxMetadata {
		return errDeepMetadata
	}
	return eachEntry(b, func(value []byte) error { return checkValue(value, depth+1) })
}

func checkValue(b []byte, depth int) (err error) {
	if depth > maxMetadata {
		return errDeepMetadata
	}
	var f field
	for kinds := 0; len(b) > 0; {
		if b, err = f.next(b); err != nil {
			return err
		}
		switch f.tag {
		case valueString:
			_, err = text(f.val)
		case valueStruct:
			err = checkStruct(f.val, depth+1)
		case valueList:
			err = checkList(f.val, depth+1)
		case valueNull, valueNumber, valueBool:
		default:
			continue
		}
		if err != nil {
			return err
		}
		if kinds++; kinds > 1 {
			return errTwoValues
		}
	}
	return nil
}

func checkList(b []byte, depth int) (err error) {
	var f field
	for len(b) > 0 {
		if b, err = f.next(b); err != nil {
			return err
		}
		if f.tag == listValues {
			if err = checkValue(f.val, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachEntry checks the value of every entry of one map field.
func eachEntry(b []byte, check func([]byte) error) (err error) {
	var f, e field
	for len(b) > 0 {
		if b, err = f.next(b); err != nil {
			return err
		}
		if f.tag != mapField {
			continue
		}
		values := 0
		for v := f.val; len(v) > 0; {
			if v, err = e.next(v); err != nil {
				return err
			}
			switch e.tag {
			case mapKey:
				_, err = text(e.val)
			case mapValue:
				err = check(e.val)
				values++
			}
			if err != nil {
				return err
			}
		}
		if values > 1 {
			return errTwoValues
		}
	}
	return nil
}
