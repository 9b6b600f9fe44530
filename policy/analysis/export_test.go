package analysis

import "github.com/writ-auth/writ/policy"

// InspectWithin is Inspect with a bound of its own on the comparisons of values.
func InspectWithin(docs []*policy.Document, mesh policy.Mesh, comparisons int) []Finding {
	return inspect(docs, mesh, nil, comparisons)
}

// CoveredBy returns for every rule of the documents which one makes it pointless, "" for none: looked up, and by comparing
// all pairs. compared is the comparisons of values that the first took.
func CoveredBy(docs []*policy.Document, mesh policy.Mesh) (lookedUp, allPairs []string, compared int) {
	l := newLinter(docs, mesh)
	l.comparisons = maxComparisons
	c := newCoverer(l)
	ix := newCoverIndex(c.all)
	for _, m := range c.all {
		lookedUp = append(lookedUp, nameOf(c.first(m, ix.candidates(m))))
	}
	compared = maxComparisons - c.comparisons
	every := make([]entry, len(c.all))
	for i := range every {
		every[i].rule = int32(i)
	}
	for _, m := range c.all {
		allPairs = append(allPairs, nameOf(c.first(m, [][]entry{every})))
	}
	return lookedUp, allPairs, compared
}

func nameOf(m *matcher) string {
	if m == nil {
		return ""
	}
	return m.String()
}
