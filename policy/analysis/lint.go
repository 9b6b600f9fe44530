package analysis

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

const (
	actionAllow  = securityv1beta1.AuthorizationPolicy_ALLOW
	actionDeny   = securityv1beta1.AuthorizationPolicy_DENY
	actionCustom = securityv1beta1.AuthorizationPolicy_CUSTOM
)

// Finding is a problem with what mends it, if something does without changing any answer.
type Finding struct {
	policy.Problem
	Fix []Edit
}

// Lint returns the hazards of a set of documents: warnings and infos, never errors, in the order of the documents.
// Findings about workloads, targets and PeerAuthentication depend on what else is in the set.
// Broken documents are passed over.
func Lint(docs []*policy.Document, mesh policy.Mesh) []policy.Problem {
	var out []policy.Problem
	for _, f := range Inspect(docs, mesh, nil) {
		out = append(out, f.Problem)
	}
	return out
}

// Inspect is [Lint] with fixes, and with findings about the providers that are configured. Without providers (nil) nothing
// is known of them; with them, a policy whose provider is missing is an error. Those about the configuration come last.
func Inspect(docs []*policy.Document, mesh policy.Mesh, providers *Providers) []Finding {
	return inspect(docs, mesh, providers, maxComparisons)
}

func inspect(docs []*policy.Document, mesh policy.Mesh, providers *Providers, comparisons int) []Finding {
	l := newLinter(docs, mesh)
	l.comparisons = comparisons
	for _, p := range l.policies {
		checkPolicy(l, p)
		checkScope(l, p)
		checkProvider(l, p)
		checkTokenNeeds(l, p)
		for i := range p.rules {
			r := &p.rules[i]
			checkRule(l, r)
			checkLayers(l, r)
			checkAbsence(l, r)
			r.all(func(c *condition) { checkCondition(l, r, c) })
		}
	}
	for i := range l.tokens {
		checkTokens(l, &l.tokens[i])
	}
	for _, doc := range docs {
		if doc.Broken() {
			continue
		}
		switch spec := doc.Spec.(type) {
		case *networkingv1alpha3.DestinationRule:
			checkClientTLS(l, doc, spec)
		case *networkingv1alpha3.Gateway:
			checkServerTLS(l, doc, spec)
		}
	}
	checkPeers(l)
	checkSelectors(l)
	checkCovered(l)
	checkProviders(l)
	unused := checkConfigured(l, providers)
	return append(l.sorted(), unused...)
}

// linter is one run of Lint: what it knows of the set, and what it found.
type linter struct {
	mesh      policy.Mesh
	domains   []string // the mesh's trust domain, then its aliases
	policies  []*view
	workloads []registered
	objects   map[policy.Object]bool // every document of the set, whatever its kind
	peers     []peerView             // the PeerAuthentications, oldest first
	tokens    []tokenView            // the RequestAuthentications
	issuers   []string               // of their rules

	comparisons int // how many the search for rules without effect may take

	docs     []*policy.Document
	findings map[*policy.Document][]Finding
	dropped  map[*policy.Document]int // findings beyond maxFindings
	places   map[*policy.Document]*policy.Locator
}

// maxFindings is how many hazards of one document are listed. Each costs a search for its line.
const maxFindings = 100

func newLinter(docs []*policy.Document, mesh policy.Mesh) *linter {
	if mesh.TrustDomain == "" {
		mesh.TrustDomain = "cluster.local"
	}
	if mesh.RootNamespace == "" {
		mesh.RootNamespace = "istio-system"
	}
	l := &linter{
		mesh:     mesh,
		domains:  append([]string{mesh.TrustDomain}, mesh.TrustDomainAliases...),
		objects:  make(map[policy.Object]bool, len(docs)),
		docs:     docs,
		findings: make(map[*policy.Document][]Finding),
		dropped:  make(map[*policy.Document]int),
		places:   make(map[*policy.Document]*policy.Locator),
	}
	for _, doc := range docs {
		l.objects[doc.Object] = true
		if doc.Broken() {
			continue
		}
		l.workloads = append(l.workloads, registeredIn(doc)...)
		switch spec := doc.Spec.(type) {
		case *securityv1beta1.AuthorizationPolicy:
			l.policies = append(l.policies, newView(doc, spec, mesh.RootNamespace))
		case *securityv1beta1.RequestAuthentication:
			l.tokens = append(l.tokens, tokenView{doc, newScope(doc, spec, mesh.RootNamespace), spec.GetJwtRules()})
			for _, r := range spec.GetJwtRules() {
				l.issuers = append(l.issuers, r.GetIssuer())
			}
		case *securityv1beta1.PeerAuthentication:
			l.peers = append(l.peers, newPeerView(doc, spec, mesh.RootNamespace))
		}
	}
	sortPeers(l.peers)
	return l
}

// report adds a finding about one field of one document.
func (l *linter) report(doc *policy.Document, code, field, message, hint string) {
	l.reportFix(doc, code, field, message, hint, nil)
}

// reportFix is report with what mends it.
func (l *linter) reportFix(doc *policy.Document, code, field, message, hint string, fix []Edit) {
	if len(l.findings[doc]) >= maxFindings {
		l.dropped[doc]++
		return
	}
	l.add(doc, code, field, message, hint, fix)
}

func (l *linter) add(doc *policy.Document, code, field, message, hint string, fix []Edit) {
	p := policy.Problem{
		Code: code, Severity: severityOf(code), Object: doc.Object, File: doc.File, Field: field, Message: message, Hint: hint,
	}
	if l.places[doc] == nil {
		l.places[doc] = doc.Locator()
	}
	p.Line, p.Column = l.places[doc].Position(field)
	l.findings[doc] = append(l.findings[doc], Finding{p, fix})
}

// sorted is all findings by document, line and column.
func (l *linter) sorted() []Finding {
	var out []Finding
	for _, doc := range l.docs {
		if n := l.dropped[doc]; n > 0 {
			l.add(doc, codeTooMany, "", fmt.Sprintf("%d more findings of this document are not listed", n), "mend the listed ones and look again", nil)
		}
		slices.SortStableFunc(l.findings[doc], func(a, b Finding) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), strings.Compare(a.Code, b.Code))
		})
		out = append(out, l.findings[doc]...)
	}
	return out
}

func dryRun(doc *policy.Document) bool {
	annotation := policy.DryRunAnnotation
	if _, ok := doc.Annotations[policy.CustomDryRunAnnotation]; ok {
		annotation = policy.CustomDryRunAnnotation
	}
	on, err := strconv.ParseBool(doc.Annotations[annotation])
	return err == nil && on
}

// quoted is up to three values for a message.
func quoted(values []string) string {
	var b strings.Builder
	for i, v := range values {
		if i == 3 {
			b.WriteString(" and " + strconv.Itoa(len(values)-i) + " more")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Quote(v))
	}
	return b.String()
}
