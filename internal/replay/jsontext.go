package replay

import (
	"encoding/json"
	"errors"
	"strings"
)

// errJSON is what is wrong with a line that is no JSON object.
var errJSON = errors.New("no JSON object")

// maxJSONDepth bounds nesting.
const maxJSONDepth = 64

// members calls each with every member of the object that text is, its value as text. It is a scanner for lines that a
// program wrote: values are only looked at as far as it takes to find their ends.
func members(text string, each func(key, value string) error) error {
	i := space(text, 0)
	if i == len(text) || text[i] != '{' {
		return errJSON
	}
	for i = space(text, i+1); i < len(text) && text[i] != '}'; {
		end := stringEnd(text, i)
		if end < 0 {
			return errJSON
		}
		key, ok := unquote(text[i:end])
		i = space(text, end)
		if !ok || i == len(text) || text[i] != ':' {
			return errJSON
		}
		i = space(text, i+1)
		if end = valueEnd(text, i, 0); end < 0 {
			return errJSON
		}
		if err := each(key, text[i:end]); err != nil {
			return err
		}
		if i = space(text, end); i < len(text) && text[i] == ',' {
			i = space(text, i+1)
			if i < len(text) && text[i] == '}' {
				return errJSON
			}
		} else if i == len(text) || text[i] != '}' {
			return errJSON
		}
	}
	if i >= len(text) || space(text, i+1) != len(text) {
		return errJSON
	}
	return nil
}

// elements calls each with every element of the array that text is.
func elements(text string, each func(value string) error) error {
	if !strings.HasPrefix(text, "[") {
		return errJSON
	}
	for i := space(text, 1); i < len(text) && text[i] != ']'; {
		end := valueEnd(text, i, 0)
		if end < 0 {
			return errJSON
		}
		if err := each(text[i:end]); err != nil {
			return err
		}
		if i = space(text, end); i < len(text) && text[i] == ',' {
			i = space(text, i+1)
		}
	}
	return nil
}

// space is the index of the first byte from i on that is no white space.
func space(text string, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\t' || text[i] == '\n' || text[i] == '\r') {
		i++
	}
	return i
}

// stringEnd is the index behind the string that begins at i, -1 if there is none.
func stringEnd(text string, i int) int {
	if i >= len(text) || text[i] != '"' {
		return -1
	}
	for i++; ; {
		n := strings.IndexByte(text[i:], '"')
		if n < 0 {
			return -1
		}
		i += n + 1
		slashes := 0
		for text[i-2-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
}

// valueEnd is the index behind the value that begins at i, -1 if there is none.
func valueEnd(text string, i, depth int) int {
	if i >= len(text) || depth > maxJSONDepth {
		return -1
	}
	switch text[i] {
	case '"':
		return stringEnd(text, i)
	case '{', '[':
		closing := text[i] + 2 // '{'+2 is '}', '['+2 is ']'
		for i++; i < len(text); {
			switch text[i] {
			case closing:
				return i + 1
			case '"':
				i = stringEnd(text, i)
			case '{', '[':
				i = valueEnd(text, i, depth+1)
			case '}', ']':
				return -1
			default:
				i++
			}
			if i < 0 {
				return -1
			}
		}
		return -1
	}
	start := i
	for i < len(text) && strings.IndexByte(",}] \t\r\n\"{[:", text[i]) < 0 {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// unquote is the string that a value is.
func unquote(value string) (text string, ok bool) {
	if len(value) < 2 || value[0] != '"' {
		return "", false
	}
	inside := value[1 : len(value)-1]
	if strings.IndexByte(inside, '\\') < 0 {
		return inside, true
	}
	return unescaped(value)
}

func unescaped(value string) (text string, ok bool) {
	err := json.Unmarshal([]byte(value), &text)
	return text, err == nil
}
