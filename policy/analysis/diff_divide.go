package analysis

import (
	"slices"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// divideNames finds the cells of the peer certificate's name: none, the identities of meshes, a name that is no SPIFFE ID,
// and what rules name besides.
func (d *dimension) divideNames() {
	segment := bytesOf(letters + digits + "._-")
	canonical := &automaton{features: len(d.terms), any: printableExcept(""), canonical: true}
	canonical.add(universe, with([]piece{text("spiffe://")}, some(segment), []piece{text("/ns/")}, some(segment), []piece{text("/sa/")}, some(segment))...)
	d.plain(canonical)
	other := &automaton{features: len(d.terms), any: canonical.any}
	other.add(universe, some(bytesOf(letters+digits+"._-:/"))...)
	d.plain(other)

	d.add(newBitset(len(d.features)), value{absent: true})
	name := func(terms bitset, v string) { d.addTerms(terms, value{text: v}) }
	for _, v := range slices.Concat([]string{"spiffe://cluster.local/ns/other/sa/other"}, d.examples(), []string{"client.example"}) {
		if terms, within := other.run(v); within {
			name(terms, v)
		}
	}
	d.fill(canonical, nil, name)
}

// divideLists finds the cells of a claim: a list matches what some element matches.
func (d *dimension) divideLists() {
	none := newBitset(len(d.features))
	d.add(none, value{absent: true})
	if len(d.attribute.Path) > 1 && (d.attribute.Path[0] == "iss" || d.attribute.Path[0] == "sub") {
		return // texts have no members
	}
	a := &automaton{features: len(d.terms), any: printableExcept("")}
	a.add(universe, anyNumber(a.any))
	d.plain(a)
	d.fill(a, append([]string{"other"}, d.examples()...), func(terms bitset, v string) { d.addTerms(terms, value{list: []string{v}, isList: true}) })
	d.unite(1)
}

// unite adds the lists that have several of the elements from a cell on.
func (d *dimension) unite(from int) {
	elements := slices.Clone(d.cells[from:])
	for _, e := range elements {
		for _, c := range slices.Clone(d.cells[from:]) {
			if e.bits.within(c.bits) || d.gap != "" {
				continue
			}
			d.add(e.bits.or(c.bits), value{list: slices.Concat(c.value.list, e.value.list), isList: true})
		}
	}
}

// divideMetadata finds the cells of a value of a proxy's filter, which is a text or a list.
func (d *dimension) divideMetadata() {
	d.add(newBitset(len(d.features)), value{absent: true})
	for _, element := range []bool{true, false} {
		a := &automaton{features: len(d.terms), any: printableExcept("")}
		a.add(universe, anyNumber(a.any))
		for i, t := range d.terms {
			if t.pattern.Element == element {
				a.addPattern(i, t.pattern, a.any)
			}
		}
		d.fill(a, append([]string{"other"}, d.examples()...), func(terms bitset, v string) {
			if element {
				d.addTerms(terms, value{list: []string{v}, isList: true})
				return
			}
			d.addTerms(terms, value{text: v})
		})
		if element {
			d.unite(1)
		}
	}
}

// divideTokens finds the cells of a token's issuer and subject. Issuers are those of the token rules, and one of none:
// with any other a token is refused.
func (d *dimension) divideTokens(issuers []string) {
	d.add(newBitset(len(d.features)), value{absent: true})
	var subjects []string // one for each kind
	a := &automaton{any: printableExcept("")}
	a.add(universe, some(a.any)...)
	for _, t := range d.terms {
		p := t.pattern
		if t.role == rolePrincipal {
			p = p.Subject
		}
		if t.role != roleIssuer {
			a.addPattern(a.features, p, a.any)
			a.features++
		}
	}
	seen := map[string]bool{}
	d.fill(a, append([]string{"other"}, d.examples()...), func(bits bitset, v string) {
		if !seen[bits.key()] {
			seen[bits.key()] = true
			subjects = append(subjects, v)
		}
	})
	for _, subject := range append([]string{""}, subjects...) {
		for _, issuer := range issuers {
			d.addTerms(d.tokenTerms(issuer, subject), value{text: issuer, subject: subject})
		}
	}
}

// tokenTerms returns the terms that hold of a token; an empty subject is none.
func (d *dimension) tokenTerms(issuer, subject string) bitset {
	out := newBitset(len(d.terms))
	for i, t := range d.terms {
		var holds bool
		switch p := t.pattern; t.role {
		case roleIssuer:
			holds = matches(p, issuer)
		case roleSubject:
			holds = subject != "" && matches(p, subject)
		case rolePrincipal:
			holds = subject != "" && matches(p.Issuer, issuer) && matches(p.Subject, subject)
		case roleValue, roleRaw:
		}
		if holds {
			out.set(i)
		}
	}
	return out
}

// matches compares one text with one pattern of those that tokens are compared with.
func matches(p *policy.Pattern, v string) bool {
	switch p.Kind {
	case policy.PatternExact:
		return v == p.Literal
	case policy.PatternPrefix:
		return strings.HasPrefix(v, p.Literal)
	case policy.PatternSuffix:
		return strings.HasSuffix(v, p.Literal)
	case policy.PatternNonEmpty:
		return v != ""
	default:
		return false
	}
}
