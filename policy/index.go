package policy

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
)

// index finds the first rule, in ID order, that matches a request, by looking only at rules that can match.
//
// Every rule is filed under one of its own positive conditions, the most selective one: under each exact value in a
// hash map, each prefix or suffix in a radix tree, each network by its length. A request is looked up by the values it
// has; what it finds are candidates, each verified in full. A drawer that still holds many rules is an index of its own
// over their other conditions. Rules with nothing to file them under are scanned.
type index struct {
	rules  []*Rule
	bodies []*ruleBody // by the same number; the form (HTTP or TCP) this index is for
	root   *node
}

// none is the ordinal of no rule.
const none = math.MaxInt32

// scanMax is how many rules a drawer may hold before it is split again: verifying a few is cheaper than looking up.
const scanMax = 4

// newIndex files the rules of the policies, sorted by ID so that the first match is the one Envoy would report (§4.3).
func newIndex(policies []*Policy, form func(*Rule) *ruleBody) *index {
	rules := rulesByID(policies)
	ix := &index{rules: make([]*Rule, 0, len(rules)), bodies: make([]*ruleBody, 0, len(rules))}
	for _, r := range rules {
		if b := form(r); b != nil {
			ix.rules = append(ix.rules, r)
			ix.bodies = append(ix.bodies, b)
		}
	}
	if len(ix.rules) > 0 {
		ix.root = newFiling(ix.bodies).root()
	}
	return ix
}

// rulesByID sorts the rules of the policies by ID. IDs start with the policy's namespace and name, so it sorts the
// policies, then the rules of each, and as a rule finds all of them in order after that.
func rulesByID(policies []*Policy) []*Rule {
	byID := func(a, b *Rule) int { return cmp.Compare(a.id, b.id) }
	n := 0
	policies = slices.DeleteFunc(slices.Clone(policies), func(p *Policy) bool {
		n += len(p.rules)
		return len(p.rules) == 0
	})
	slices.SortFunc(policies, func(a, b *Policy) int { return byID(a.rules[0], b.rules[0]) })
	all := make([]*Rule, 0, n)
	for _, p := range policies {
		all = append(all, p.rules...)
		slices.SortFunc(all[len(all)-len(p.rules):], byID)
	}
	slices.SortFunc(all, byID)
	return all
}

// first returns the matching rule with the smallest ID, or nil.
func (ix *index) first(r *Request) *Rule {
	if ix.root == nil {
		return nil
	}
	best := int32(none)
	ix.root.search(ix, r, &best)
	if best == none {
		return nil
	}
	return ix.rules[best]
}

// node is one drawer.
type node struct {
	least int32   // smallest ordinal inside
	scan  []int32 // ordinals to verify one by one, ascending
	dims  []dimension
	// headers files rules by the header they need, once there are many such headers: the request's own headers are
	// then looked up in it, instead of each of them in the request.
	headers map[string]*dimension
}

// search lowers best to the smallest ordinal inside the node that matches r.
func (n *node) search(ix *index, r *Request, best *int32) {
	if n.least >= *best {
		return
	}
	for _, ord := range n.scan {
		if ord >= *best {
			break
		}
		if ix.bodies[ord].matches(r) {
			*best = ord
			break
		}
	}
	for i := range n.dims {
		n.dims[i].search(ix, r, best)
	}
	if n.headers != nil {
		n.searchHeaders(ix, r, best)
	}
}

func (n *node) searchHeaders(ix *index, r *Request, best *int32) {
	for i := range r.Headers {
		if d := n.headers[r.Headers[i].Name]; d != nil {
			d.search(ix, r, best)
		}
	}
	for _, name := range pseudoHeaders { // may be known without being among Headers
		if d := n.headers[name]; d != nil {
			d.search(ix, r, best)
		}
	}
}

var pseudoHeaders = [...]string{":authority", ":method", ":path"}

// dimKind is what of a request a dimension is looked up by. Most are attributes; names and tokens have parts.
type dimKind uint8

const (
	dimName           dimKind = iota // a certificate name, whole
	dimServiceAccount                // each NAME of a …/sa/NAME in it
	dimNamespace                     // each NS of a …/ns/NS/… in it
	dimTrustDomain                   // its trust domain
	dimPath
	dimHost
	dimSubject
	dimIssuer
	dimClaim
	dimHeader
	dimSNI
	dimSourceIP
	dimRemoteIP
	dimDestIP
	dimPort
	dimMethod
)

// dimension files rules by one attribute.
type dimension struct {
	kind dimKind
	attr attribute // argument of dimHeader and dimClaim

	exact   map[string]*node
	prefix  *radix
	suffix  *radix
	present *node // values that any (non-empty) value satisfies
	cidrs   []cidrLevel
	ports   map[uint16]*node
}

// cidrLevel files networks of one length and family.
type cidrLevel struct {
	bits int
	is4  bool
	nets map[netip.Prefix]*node
}

func (d *dimension) search(ix *index, r *Request, best *int32) {
	switch d.kind {
	case dimName, dimServiceAccount, dimNamespace, dimTrustDomain:
		for _, name := range r.Names {
			d.searchName(ix, r, best, name)
		}
	case dimPath:
		d.lookup(ix, r, best, r.Path, r.Path != "")
	case dimHost:
		d.lookup(ix, r, best, r.foldedHost(), r.HasHost)
	case dimMethod:
		d.lookup(ix, r, best, r.Method, r.HasMethod)
	case dimSNI:
		d.lookup(ix, r, best, r.SNI, r.SNI != "")
	case dimHeader:
		v, ok := r.Header(d.attr.name)
		d.lookup(ix, r, best, v, ok)
	case dimSubject, dimIssuer, dimClaim:
		d.searchClaims(ix, r, best)
	case dimSourceIP:
		d.lookupAddr(ix, r, best, r.SourceIP)
	case dimRemoteIP:
		d.lookupAddr(ix, r, best, r.RemoteIP)
	case dimDestIP:
		d.lookupAddr(ix, r, best, r.DestIP)
	case dimPort:
		if n := d.ports[r.DestPort]; n != nil && r.DestPort != 0 {
			n.search(ix, r, best)
		}
	}
}

func (d *dimension) searchClaims(ix *index, r *Request, best *int32) {
	if r.Claims == nil {
		return
	}
	switch d.kind {
	case dimSubject:
		d.lookup(ix, r, best, r.Claims.Subject(), true)
	case dimIssuer:
		d.lookup(ix, r, best, r.Claims.Issuer(), true)
	default:
		d.lookupAll(ix, r, best, r.Claims.Strings(d.attr.path))
	}
}

func (d *dimension) lookupAll(ix *index, r *Request, best *int32, vs []string) {
	for _, v := range vs {
		d.lookup(ix, r, best, v, true)
	}
}

// lookup searches every drawer that a value opens.
func (d *dimension) lookup(ix *index, r *Request, best *int32, v string, present bool) {
	if !present {
		return
	}
	if n := d.exact[v]; n != nil {
		n.search(ix, r, best)
	}
	if d.prefix != nil {
		d.prefix.search(ix, r, best, v)
	}
	if d.suffix != nil {
		d.suffix.search(ix, r, best, v)
	}
	if d.present != nil {
		d.present.search(ix, r, best)
	}
}

func (d *dimension) lookupAddr(ix *index, r *Request, best *int32, a netip.Addr) {
	if !a.IsValid() {
		return
	}
	for i := range d.cidrs {
		l := &d.cidrs[i]
		if l.is4 != a.Is4() {
			continue
		}
		p, err := a.WithZone("").Prefix(l.bits)
		if err != nil {
			continue
		}
		if n := l.nets[p]; n != nil {
			n.search(ix, r, best)
		}
	}
}
