package caserver

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// Outcome is how a call ended, from a small fixed set that fits a metric's label.
type Outcome string

// The outcomes.
const (
	Issued          Outcome = "issued"
	Unauthenticated Outcome = "unauthenticated" // who asks was not proven
	Denied          Outcome = "denied"          // who asks is known and may not
	BadRequest      Outcome = "bad_request"     // the certificate request is refused
	UnknownSigner   Outcome = "unknown_signer"  // no profile by that name
	RateLimited     Outcome = "rate_limited"    // this caller asks too often
	Overloaded      Outcome = "overloaded"      // too many calls at work, or too many changes wait for the ledger
	NotReady        Outcome = "not_ready"       // no signer, no store, no keys
	TimedOut        Outcome = "timed_out"       // the work took too long
	Cancelled       Outcome = "cancelled"       // the caller went away
	Failed          Outcome = "failed"          // a defect or a failed self-check
)

// outcomeTable says for each outcome what the caller is told: a code by which agents know whether to try again
// (identity §2.7), and words that tell nothing about anybody else.
var outcomeTable = []struct {
	outcome Outcome
	code    codes.Code
	text    string
}{
	{Issued, codes.OK, ""},
	{Unauthenticated, codes.Unauthenticated, "request authenticate failure"},
	{Denied, codes.PermissionDenied, "permission denied"},
	{BadRequest, codes.InvalidArgument, "certificate request refused"},
	{UnknownSigner, codes.InvalidArgument, "unknown CertSigner"},
	{RateLimited, codes.ResourceExhausted, "too many requests from this caller"},
	{Overloaded, codes.ResourceExhausted, "too many requests"},
	{NotReady, codes.Unavailable, "not ready to issue certificates"},
	{TimedOut, codes.DeadlineExceeded, "issuing took too long"},
	{Cancelled, codes.Canceled, "the caller went away"},
	{Failed, codes.Internal, "internal error"},
}

// Outcomes lists every outcome.
func Outcomes() []Outcome {
	all := make([]Outcome, 0, len(outcomeTable))
	for _, row := range outcomeTable {
		all = append(all, row.outcome)
	}
	return all
}

// Observation is one call and its answer.
type Observation struct {
	Time     time.Time
	Duration time.Duration
	From     netip.Addr     // the other end of the connection; not valid if unknown
	Cluster  string         // the clusterid header, which the caller chooses: for the log alone
	Caller   *attest.Caller // nil if nobody was proven
	Asked    string         // the impersonated identity that was asked for, as received
	ID       spiffeid.ID    // that the certificate is for; zero if it did not come to that
	Outcome  Outcome
	// Reason is a detail of the outcome from a fixed set: an [attest.Reason] or a [ca.Reason]; empty if there is none.
	Reason string
	Err    error      // the whole story; nil when issued
	Issued *ca.Issued // nil unless issued
}

// Code is what the caller was answered.
func (o *Observation) Code() codes.Code {
	for _, row := range outcomeTable {
		if row.outcome == o.Outcome {
			return row.code
		}
	}
	return codes.Internal
}

// status is the answer to the caller: no more than the outcome, and what is wrong with its own request.
func (o *Observation) status() error {
	if errors.Is(o.Err, errOnlyToJoin) {
		return status.Error(codes.InvalidArgument, errOnlyToJoin.Error())
	}
	for _, row := range outcomeTable {
		if row.outcome == o.Outcome {
			text := row.text
			if o.Outcome == BadRequest && o.Reason != "" {
				text += ": " + o.Reason
			}
			return status.Error(row.code, text)
		}
	}
	return status.Error(codes.Internal, "internal error")
}

// Errors of this package's own checks.
var (
	errOverloaded    = errors.New("too many calls are at work")
	errRateLimited   = errors.New("the caller's budget is used up")
	errUnknownSigner = errors.New("no such signer is configured")
	errBadMetadata   = errors.New("the request's metadata is malformed")
	errPanic         = errors.New("panic")
)

// conclude turns what went wrong into an outcome. ctx is the call's, with the server's own deadline.
func conclude(ctx context.Context, err error) (Outcome, string) {
	reason := string(attest.ReasonOf(err))
	if e, ok := errors.AsType[*ca.CSRError](err); ok {
		reason = string(e.Reason)
	}
	switch {
	case err == nil:
		return Issued, ""
	case errors.Is(err, errPanic):
		return Failed, ""
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return TimedOut, ""
	case ctx.Err() != nil:
		return Cancelled, ""
	case errors.Is(err, errOverloaded), errors.Is(err, ca.ErrOverloaded): // the ledger's queue, when a token is taken as well
		return Overloaded, ""
	case attest.ReasonOf(err) != "":
		switch attest.ReasonOf(err).Kind() {
		case attest.Denied:
			return Denied, reason
		case attest.Unavailable:
			return NotReady, reason
		default:
			return Unauthenticated, reason
		}
	case errors.Is(err, errRateLimited):
		return RateLimited, ""
	case errors.Is(err, errUnknownSigner):
		return UnknownSigner, ""
	case errors.Is(err, ca.ErrCSR):
		return BadRequest, reason
	case errors.Is(err, ca.ErrAudience), errors.Is(err, errOnlyToJoin):
		return BadRequest, ""
	case errors.Is(err, ca.ErrNoJWT):
		return NotReady, ""
	case errors.Is(err, errBadMetadata):
		return BadRequest, "metadata"
	case errors.Is(err, ca.ErrIdentity):
		return Denied, "identity"
	case errors.Is(err, ca.ErrRevoked):
		return Denied, "revoked"
	case errors.Is(err, ca.ErrSelfCheck):
		return Failed, "self_check"
	case errors.Is(err, ca.ErrNotReady), errors.Is(err, ca.ErrUnavailable):
		return NotReady, ""
	default:
		return Failed, ""
	}
}
