package authz

import (
	"context"

	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// Provider answers for CUSTOM policies (authorization-policy §4.4, §6). It is safe for concurrent use.
type Provider interface {
	// Ask writes the answer to a, which is empty. An error says that there is no answer: the request is denied, or goes
	// on if the provider fails open. Ask returns when ctx is done at the latest, and keeps nothing of q or a. A [Fault]
	// says more than another error: why there is no answer, in a word fit for a metric.
	Ask(ctx context.Context, q *Question, a *Answer) error
}

// Fault is the error of a provider that knows in which way it failed. Any other error is ReasonProviderTimeout once the
// context of the question is done, and ReasonProviderError before.
type Fault struct {
	Reason Reason // one of the ReasonProvider… constants
	Err    error  // for operators
}

// Error is what happened, for operators and never for the client.
func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap returns what happened.
func (f *Fault) Unwrap() error { return f.Err }

// Question is one request that a CUSTOM rule matched.
type Question struct {
	Raw      []byte // the CheckRequest as Envoy sent it; nil when there is none
	Request  *policy.Request
	Workload *policy.Bound
	Rule     *policy.Rule // that matched
	ID       ID           // of the decision

	// Token verifies the request's tokens, at most once, and returns what became of them: CUSTOM comes before the JWT
	// layer (§4.1), which refuses a bad token after the provider allowed.
	Token func(ctx context.Context) *jwt.Result
}

// Answer is what a provider says. A provider appends to its lists, whose memory is reused, and does not put lists of its
// own in their place.
type Answer struct {
	Allow  bool
	Reason Reason // of a denial, empty for ReasonProviderDenied
	Status int    // HTTP status of a denial, 200 to 599; 0 for 403
	Body   string // of a denial
	Changes
	// Detail is for operators: what the provider said besides, never for the client.
	Detail string
}

// Changes are what a provider wants done to messages. What it may not set is refused (see [Engine]).
type Changes struct {
	RequestHeaders  []HeaderChange // of an allowed request, on its way to the workload
	RemoveHeaders   []string       // of an allowed request
	ResponseHeaders []HeaderChange // of the answer to the client: the workload's after an allow, the denial itself otherwise
	SetParams       []Param        // query parameters of an allowed request
	RemoveParams    []string
	Metadata        map[string]any // dynamic metadata: JSON values as encoding/json makes them
}

// HeaderChange sets a header or adds to it.
type HeaderChange struct {
	Name, Value string
	Append      HeaderAppend
}

// HeaderAppend says what becomes of a header that is there already, as Envoy's HeaderAppendAction does.
type HeaderAppend uint8

// What becomes of a header that is there already.
const (
	HeaderOverwrite         HeaderAppend = iota // replaced, or added
	HeaderAppendOrAdd                           // kept, the value added
	HeaderAddIfAbsent                           // kept as it is
	HeaderOverwriteIfExists                     // replaced; not added when absent
)

// Param is one query parameter.
type Param struct{ Name, Value string }
