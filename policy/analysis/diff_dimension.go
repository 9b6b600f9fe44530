package analysis

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// Bounds of the enumeration. What exceeds them is UNKNOWN.
const (
	maxStates = 40_000 // prefixes of the values of one attribute
	maxCells  = 4_096  // kinds of values of one attribute that rules tell apart
)

// value is one value of an attribute.
type value struct {
	absent  bool
	text    string   // also the issuer
	subject string   // of a token, "" = none
	list    []string // of a claim, or of metadata that is a list
	isList  bool
	addr    netip.Addr
	port    uint16
}

// cell is all values of an attribute that no rule tells apart, by one of them.
type cell struct {
	bits  bitset // features that hold
	value value
}

// role is what of an attribute a feature looks at.
type role uint8

const (
	roleValue     role = iota // the value itself
	roleRaw                   // the pseudo header: path with query, host with its case
	rolePrincipal             // issuer and subject together
	roleIssuer                // the iss claim
	roleSubject               // the sub claim
)

// feature is a list of patterns of which one matches: all that a demand asks of an attribute.
type feature struct {
	role     role
	patterns []policy.Pattern
}

// dimension is one attribute that rules look at, with the features they ask for and, once divide was called, its cells.
// The first cell holds the default: the plainest value, absence if that can be.
type dimension struct {
	key       string
	attribute policy.Attribute
	features  []feature
	byKey     map[string]int
	cells     []cell
	gap       string // why cells are missing, "" if none are
	rawPaths  bool   // of paths: as in [DiffOptions]

	terms  []term          // the distinct patterns of all features
	termOf [][]int         // those of each feature
	lifted map[string]bool // sets of terms that were met already
	known  map[string]bool // sets of features that have a cell
}

// term is one pattern, and what of the attribute it looks at.
type term struct {
	role    role
	pattern *policy.Pattern
}

// feature registers a list of patterns.
func (d *dimension) feature(role role, patterns []policy.Pattern) int {
	key := fmt.Sprint(role)
	for i := range patterns {
		key += patternKey(&patterns[i])
	}
	i, ok := d.byKey[key]
	if !ok {
		i = len(d.features)
		d.byKey[key] = i
		d.features = append(d.features, feature{role, patterns})
	}
	return i
}

func patternKey(p *policy.Pattern) string {
	key := fmt.Sprintf("%d %q %q %q %v %q %v %d %v;", p.Kind, p.Literal, p.Account, p.Parts, p.Deep, p.Tail, p.Prefix, p.Port, p.Element)
	if p.Issuer != nil {
		key += patternKey(p.Issuer) + patternKey(p.Subject)
	}
	return key
}

// collectTerms finds the distinct patterns: policies repeat one another's values.
func (d *dimension) collectTerms() {
	index := map[string]int{}
	for i := range d.features {
		f := &d.features[i]
		var of []int
		for j := range f.patterns {
			key := fmt.Sprint(f.role, patternKey(&f.patterns[j]))
			t, known := index[key]
			if !known {
				t = len(d.terms)
				index[key] = t
				d.terms = append(d.terms, term{f.role, &f.patterns[j]})
			}
			of = append(of, t)
		}
		d.termOf = append(d.termOf, of)
	}
}

// addTerms keeps a value of which the terms are known.
func (d *dimension) addTerms(terms bitset, v value) {
	if key := terms.key(); !d.lifted[key] {
		d.lifted[key] = true
		d.add(d.lift(terms), v)
	}
}

// lift turns a set of terms into the set of features that hold.
func (d *dimension) lift(terms bitset) bitset {
	out := newBitset(len(d.features))
	for i, of := range d.termOf {
		if slices.ContainsFunc(of, terms.has) {
			out.set(i)
		}
	}
	return out
}

// has returns the cells in which a feature holds.
func (d *dimension) has(feature int) bitset {
	out := newBitset(len(d.cells))
	for i := range d.cells {
		if d.cells[i].bits.has(feature) {
			out.set(i)
		}
	}
	return out
}

// that returns the cells whose value fits.
func (d *dimension) that(fits func(*value) bool) bitset {
	out := newBitset(len(d.cells))
	for i := range d.cells {
		if fits(&d.cells[i].value) {
			out.set(i)
		}
	}
	return out
}

// add keeps a value unless rules cannot tell it from one that is there.
func (d *dimension) add(bits bitset, v value) {
	if d.known[bits.key()] {
		return
	}
	if len(d.cells) == maxCells {
		d.gap = fmt.Sprintf("its values differ in more than %d ways", maxCells)
		return
	}
	d.known[bits.key()] = true
	d.cells = append(d.cells, cell{bits, v})
}

// divide finds the cells.
func (d *dimension) divide(issuers []string) {
	d.known, d.lifted = map[string]bool{}, map[string]bool{}
	d.collectTerms()
	switch d.attribute.Kind {
	case policy.AttributeNames:
		d.divideNames()
	case policy.AttributeSourceIP, policy.AttributeRemoteIP, policy.AttributeDestIP:
		d.divideAddresses()
	case policy.AttributeDestPort:
		d.dividePorts()
	case policy.AttributeRequestPrincipal:
		d.divideTokens(issuers)
	case policy.AttributeClaim:
		d.divideLists()
	case policy.AttributeMetadata:
		d.divideMetadata()
	case policy.AttributeMethod, policy.AttributePath, policy.AttributeHost, policy.AttributeSNI, policy.AttributeHeader:
		d.divideText()
	}
	d.known, d.lifted = nil, nil
}

// divideText finds the cells of an attribute with one text.
func (d *dimension) divideText() {
	a, defaults := d.textAutomaton()
	none := newBitset(len(d.features))
	if d.attribute.Kind == policy.AttributeHeader || d.attribute.Kind == policy.AttributeSNI {
		d.add(none, value{absent: true})
	}
	d.fill(a, slices.Concat(defaults, d.examples()), func(terms bitset, v string) { d.addTerms(terms, value{text: v}) })
	if d.attribute.Kind == policy.AttributePath {
		d.add(none, value{absent: true})
	}
}

// fill visits the terms of some values first, so that people see values they know, then those of all others.
func (d *dimension) fill(a *automaton, first []string, visit func(terms bitset, v string)) {
	for _, v := range first {
		if terms, within := a.run(v); within {
			visit(terms, v)
		}
	}
	if !a.walk(maxStates, visit) {
		d.gap = "its patterns combine in too many ways"
	}
}

// textAutomaton is the automaton of an attribute with one text, and the values to try first.
func (d *dimension) textAutomaton() (a *automaton, defaults []string) {
	a = &automaton{features: len(d.terms), any: printableExcept("")}
	raw := slices.ContainsFunc(d.features, func(f feature) bool { return f.role == roleRaw })
	switch d.attribute.Kind {
	case policy.AttributeMethod:
		a.add(universe, some(bytesOf(letters+"-_"))...)
		return d.plain(a), []string{"GET", "POST", "PUT", "DELETE", "CONNECT", "PATCH"}
	case policy.AttributeHost:
		a.add(universe, some(bytesOf(letters+digits+".-_:[]"))...)
		for i, t := range d.terms {
			a.fold = t.role == roleValue // case counts only in the header (§1.3 HOST)
			a.addPattern(i, t.pattern, a.any)
		}
		return a, []string{"other.example", "Other.Example"}
	case policy.AttributePath:
		path := printableExcept("?# ")
		defaults = []string{"/", "/other"}
		if raw {
			a.add(universe, text("/"), anyNumber(path), piece{set: bytesOf("?")}, anyNumber(a.any))
			defaults = append(defaults, "/?x=1", "/other?x=1")
		} else {
			a.any = path
		}
		a.add(universe, text("/"), anyNumber(path))
		if !d.rawPaths {
			d.refusePaths(a, path, raw)
		}
		for i, t := range d.terms {
			p := t.pattern
			switch {
			case t.role == roleRaw:
				a.addPattern(i, p, a.any)
			case strings.ContainsAny(p.Literal+strings.Join(p.Parts, "")+p.Tail, "?#"): // no path holds them
			case raw:
				a.addPattern(i, p, path)
				a.addPattern(i, p, path, piece{set: bytesOf("?")}, anyNumber(a.any))
			default:
				a.addPattern(i, p, path)
			}
		}
		return a, defaults
	case policy.AttributeSNI:
		a.add(universe, some(bytesOf(letters+digits+".-_"))...)
		return d.plain(a), []string{"other.example"}
	default:
		a.add(universe, anyNumber(a.any))
		return d.plain(a), []string{"other", ""}
	}
}

// plain adds the patterns of all terms as they are.
func (d *dimension) plain(a *automaton) *automaton {
	for i, t := range d.terms {
		a.addPattern(i, t.pattern, a.any)
	}
	return a
}
