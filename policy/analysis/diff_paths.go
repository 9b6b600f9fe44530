package analysis

import (
	"strings"
)

// refused is the feature of values that are no values: the server denies such requests whatever the documents say.
const refused = -2

// refusePaths takes away the paths that a normalizing proxy does not send, and that are denied for this (authorization-
// policy §9.3): those with a backslash, with a segment of one or two dots, and with an escaped letter, digit, "-", ".",
// "_", "~" or NUL. No value has what no literal names, so that sets which name nothing of the kind cost nothing.
func (d *dimension) refusePaths(a *automaton, path *byteSet, raw bool) {
	rest := anyNumber(path)
	refuse := func(what ...piece) {
		pieces := append(append([]piece{rest}, what...), rest)
		a.add(refused, pieces...)
		if raw {
			a.add(refused, append(pieces, piece{set: bytesOf("?")}, anyNumber(a.any))...)
		}
	}
	literals := d.literals()
	names := func(s string) bool { return strings.Contains(literals, s) }
	if names(`\`) {
		refuse(text(`\`))
	}
	if names("%") {
		for _, pair := range []struct{ high, low string }{
			{"0", "0"}, {"2", "dDeE"}, {"3", digits}, {"4", "123456789abcdefABCDEF"}, {"5", "0123456789aAfF"}, {"6", "123456789abcdefABCDEF"}, {"7", "0123456789aAeE"},
		} {
			refuse(text("%"+pair.high), piece{set: bytesOf(pair.low)})
		}
	}
	if names(".") {
		for _, dots := range []string{"/.", "/.."} {
			refuse(text(dots + "/"))
			a.add(refused, rest, text(dots))
			if raw {
				a.add(refused, rest, text(dots), piece{set: bytesOf("?")}, anyNumber(a.any))
			}
		}
	}
}

// literals is all that the patterns of the attribute name.
func (d *dimension) literals() string {
	var all []string
	for _, t := range d.terms {
		all = append(append(all, t.pattern.Literal, t.pattern.Tail), t.pattern.Parts...)
	}
	return strings.Join(all, "\x00")
}
