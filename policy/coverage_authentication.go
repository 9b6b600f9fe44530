package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// This file counts what requests exercise of the documents that say who a caller is: of a RequestAuthentication each rule by
// a good token, a refused one, and none, and each place it names; of a PeerAuthentication each mode it sets, for all ports
// or for one, by a caller with an identity of the mesh and by one without.

// TokenState is what one token rule alone makes of a request.
type TokenState uint8

// Token states.
const (
	TokenNone    TokenState = iota // the request has no token where the rule looks
	TokenGood                      // it has a token that the rule takes
	TokenRefused                   // it was refused for a token that the rule does not take
	TokenOther                     // it has a token that is another rule's affair
)

// TokenSeen is what one rule of [Bound.Authentication] makes of a request. Whoever verifies tokens says so.
type TokenSeen struct {
	Rule   JWTRule
	State  TokenState
	Places []string // where a token was found: "header NAME" in lower case, "parameter NAME" or "cookie NAME"
}

// tokenCoverage is what was seen of one entry of jwtRules.
type tokenCoverage struct {
	issuer string
	states [TokenOther + 1]int
	places []string // that the rule names
	found  []int    // by places
}

// authenticationCoverage is what was seen of one RequestAuthentication or PeerAuthentication.
type authenticationCoverage struct {
	kind   string
	doc    *Document
	tokens []*tokenCoverage // of a RequestAuthentication
	modes  []*modeCoverage  // of a PeerAuthentication
}

// modeCoverage is what was seen of one mode that a PeerAuthentication sets.
type modeCoverage struct {
	port            uint16 // 0 for all without one of their own
	mode            Mode
	plaintext, mtls int
}

// addAuthentication takes the documents of a snapshot into the account that are there for the first time.
func (c *Coverage) addAuthentication(s *Snapshot) {
	for _, ns := range sortedKeys(s.tokens) {
		if c.tokensElsewhere {
			break
		}
		for _, a := range s.tokens[ns] {
			seen := c.authentication(KindRequestAuthentication, a.doc, func(ac *authenticationCoverage) {
				for _, rule := range a.rules {
					places := tokenPlaces(rule)
					ac.tokens = append(ac.tokens, &tokenCoverage{issuer: rule.GetIssuer(), places: places, found: make([]int, len(places))})
				}
			})
			for i, rule := range a.rules {
				c.byToken[rule] = seen.tokens[i]
			}
		}
	}
	for _, ns := range sortedKeys(s.peers) {
		for _, p := range s.peers[ns] {
			c.byPeer[p] = c.authentication(KindPeerAuthentication, p.doc, func(ac *authenticationCoverage) { ac.modes = p.uncovered() })
		}
	}
}

// authentication returns what was seen of a document, with what fill makes of one that is new.
func (c *Coverage) authentication(kind string, doc *Document, fill func(*authenticationCoverage)) *authenticationCoverage {
	place := coveragePlace{doc.File, kind + " " + doc.Namespace + "/" + doc.Name, doc.Line}
	if seen := c.byDocument[place]; seen != nil {
		return seen
	}
	seen := &authenticationCoverage{kind: kind, doc: doc}
	fill(seen)
	c.byDocument[place] = seen
	return seen
}

// tokenPlaces lists the places that a rule names, each once. One that names none looks at the usual ones, which are not
// counted apart.
func tokenPlaces(rule *securityv1beta1.JWTRule) []string {
	var out []string
	add := func(place string) {
		if !slices.Contains(out, place) {
			out = append(out, place)
		}
	}
	for _, h := range rule.GetFromHeaders() {
		add("header " + strings.ToLower(h.GetName()))
	}
	for _, name := range rule.GetFromParams() {
		add("parameter " + name)
	}
	for _, name := range rule.GetFromCookies() {
		add("cookie " + name)
	}
	return out
}

// uncovered lists the modes that the document sets: that of all ports first, then those of single ones.
func (p *peerAuthentication) uncovered() []*modeCoverage {
	var out []*modeCoverage
	if p.mode != ModeUnset {
		out = append(out, &modeCoverage{mode: p.mode})
	}
	for port, mode := range p.ports {
		if mode != ModeUnset {
			out = append(out, &modeCoverage{port: port, mode: mode})
		}
	}
	slices.SortFunc(out, func(a, b *modeCoverage) int { return cmp.Compare(a.port, b.port) })
	return out
}

// recordAuthentication counts what one request shows of the documents that say who the caller is.
func (c *Coverage) recordAuthentication(b *Bound, r *Request, reached *Reached) {
	if reached.MTLS && b.peers != nil {
		port := b.MTLS(r.DestPort).Port // of a port that is not known: the strictest
		c.recordMode(b.peers.from[port], port, r.HasIdentity())
	}
	for i := range reached.Tokens {
		seen := &reached.Tokens[i]
		if tc := c.byToken[seen.Rule.Spec]; tc != nil {
			tc.record(seen)
		}
	}
}

// recordMode counts one request under the mode that a document gives its port.
func (c *Coverage) recordMode(p *peerAuthentication, port uint16, identity bool) {
	ac := c.byPeer[p]
	if ac == nil { // no document says anything
		return
	}
	if p.ports[port] == ModeUnset { // then the mode is that of all ports
		port = 0
	}
	for _, mc := range ac.modes {
		switch {
		case mc.port != port:
		case identity:
			mc.mtls++
		default:
			mc.plaintext++
		}
	}
}

func (tc *tokenCoverage) record(seen *TokenSeen) {
	tc.states[seen.State]++
	for i, place := range tc.places {
		if seen.State != TokenOther && slices.Contains(seen.Places, place) {
			tc.found[i]++
		}
	}
}

// AuthenticationCoverage is what is covered of one RequestAuthentication or PeerAuthentication.
type AuthenticationCoverage struct {
	Kind   string         `json:"kind"`
	Name   string         `json:"name"` // namespace/name
	File   string         `json:"file"`
	Line   int            `json:"line"`
	Points Count          `json:"points"`
	Parts  []PartCoverage `json:"parts"`
}

// PartCoverage is what is covered of one token rule, or of one mode.
type PartCoverage struct {
	Part     string           `json:"part"`  // jwtRules[0], mtls, or portLevelMtls[8080]
	About    string           `json:"about"` // the issuer, or the mode
	Line     int              `json:"line"`
	Branches []BranchCoverage `json:"branches"`
}

// report sums up one document.
func (ac *authenticationCoverage) report() AuthenticationCoverage {
	out := AuthenticationCoverage{
		Kind: ac.kind, Name: ac.doc.Namespace + "/" + ac.doc.Name, File: ac.doc.File, Line: ac.doc.Line, Parts: []PartCoverage{},
	}
	places := ac.doc.Locator()
	add := func(part, about string, branches ...BranchCoverage) {
		p := PartCoverage{Part: part, About: about, Branches: branches}
		p.Line, _ = places.Position("spec." + part)
		for i := range branches {
			b := &branches[i]
			b.Field, b.Line = part, p.Line
			out.Points.add(b.Hits > 0)
		}
		out.Parts = append(out.Parts, p)
	}
	for i, tc := range ac.tokens {
		branches := []BranchCoverage{
			{Kind: BranchGoodToken, Hits: tc.states[TokenGood]}, {Kind: BranchRefusedToken, Hits: tc.states[TokenRefused]},
			{Kind: BranchNoToken, Hits: tc.states[TokenNone]},
		}
		for j, place := range tc.places {
			branches = append(branches, BranchCoverage{Kind: BranchTokenPlace, Value: place, Hits: tc.found[j]})
		}
		add(fmt.Sprintf("jwtRules[%d]", i), tc.issuer, branches...)
	}
	for _, mc := range ac.modes {
		part := "mtls"
		if mc.port != 0 {
			part = fmt.Sprintf("portLevelMtls[%d]", mc.port)
		}
		branches := []BranchCoverage{{Kind: BranchPlaintext, Hits: mc.plaintext}}
		if mc.mode != ModeDisable { // under which nobody has an identity (authorization-policy §8.2)
			branches = append(branches, BranchCoverage{Kind: BranchMTLS, Hits: mc.mtls})
		}
		add(part, mc.mode.String(), branches...)
	}
	return out
}

// reportAuthentication adds the documents to a report, in the order of files and lines.
func (c *Coverage) reportAuthentication(r *CoverageReport) {
	for _, ac := range c.byDocument {
		if one := ac.report(); one.Points.All > 0 { // others say nothing
			r.Authentication = append(r.Authentication, one)
		}
	}
	slices.SortFunc(r.Authentication, func(a, b AuthenticationCoverage) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Name, b.Name))
	})
	for i := range r.Authentication {
		a := &r.Authentication[i]
		r.Authentications.add(a.Points.Covered > 0)
		r.Points.Covered += a.Points.Covered
		r.Points.All += a.Points.All
		r.Branches.Covered += a.Points.Covered
		r.Branches.All += a.Points.All
	}
}
