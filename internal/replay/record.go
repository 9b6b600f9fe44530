package replay

import (
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// record is one request of the past, as far as its source tells. It is reused from line to line.
type record struct {
	request policy.Request
	shape   shape
	// workload is whom the request was for, as the source spells it, and parse makes sense of that; empty if it does not say.
	workload string
	parse    func(text string) (*policy.Workload, error)

	token   tokenState
	claims  loggedClaims
	asked   []askedProvider
	settled bool // answered before any document counted

	decision   string // allow or deny, empty if the source does not say
	status     int    // of a denial by a provider
	time       string
	decisionID string
	requestID  string
}

func (r *record) reset(l *layout) {
	clear(r.asked)
	r.request.Reset()
	*r = record{request: r.request, asked: r.asked[:0], shape: shape{layout: l}}
}

// tokenState is what became of a request's token.
type tokenState uint8

const (
	tokenUnknown tokenState = iota
	tokenNone
	tokenValid
	tokenRefused
)

// askedProvider is what a provider answered when the request was decided.
type askedProvider struct {
	name    string
	outcome authz.Reason
	open    bool
}

// loggedClaims are the claims that a record holds: whose the token was. It implements [policy.Claims].
type loggedClaims struct{ issuer, subject string }

// Issuer implements [policy.Claims].
func (c *loggedClaims) Issuer() string { return c.issuer }

// Subject implements [policy.Claims].
func (c *loggedClaims) Subject() string { return c.subject }

// Strings implements [policy.Claims].
func (c *loggedClaims) Strings(path []string) []string {
	if len(path) != 1 {
		return nil
	}
	switch path[0] {
	case "iss":
		return []string{c.issuer}
	case "sub":
		return []string{c.subject}
	}
	return nil
}

// unknownSource stands for a caller that the record does not name.
const unknownSource = "(unknown)"

// example is what may be shown of the record, and of the request that it is of.
func (r *record) example(q *policy.Request, w *policy.Workload) Example {
	e := exampleOf(q, w)
	if r.shape.lacks&lacksIdentity != 0 {
		e.Source = unknownSource
	}
	e.DecisionID, e.RequestID = shown(r.decisionID), shown(r.requestID)
	if t, err := time.Parse(time.RFC3339Nano, r.time); err == nil {
		e.Time = t
	}
	return e
}
