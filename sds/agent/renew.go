package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

// Outcome is how an attempt at a certificate ended, from a small fixed set that fits a metric's label.
type Outcome string

// The outcomes.
const (
	Renewed     Outcome = "renewed"
	Refused     Outcome = "refused"     // the authority says no
	Unreachable Outcome = "unreachable" // no authority answers, or none is ready
	BadAnswer   Outcome = "bad_answer"  // what came is not what was asked for
	NoProof     Outcome = "no_proof"    // there is nothing to prove who asks
	Failed      Outcome = "failed"      // here, before anybody was asked
)

// Outcomes lists every outcome.
func Outcomes() []Outcome {
	return []Outcome{Renewed, Refused, Unreachable, BadAnswer, NoProof, Failed}
}

// Event is one attempt at a certificate.
type Event struct {
	ID      spiffeid.ID // zero if it was the agent's own before its first certificate
	Outcome Outcome
	Took    time.Duration
	Err     error // nil when renewed
}

// Why a renewal is due.
const (
	whyHalfLife = "half of its life"
	whyRoot     = "its root is about to go"
	whyRetry    = "the last attempt failed"
)

// keyImpersonated is the key of a request's metadata that names an identity among those that the caller may have
// (identity §2.1).
const keyImpersonated = "ImpersonatedIdentity"

var errNoProof = errors.New("no proof of identity")

// attempt asks once for a certificate, and says when to come back.
func (a *Agent) attempt(ctx context.Context, k *keeper) {
	start := time.Now()
	var err error
	if k == a.own {
		err = a.renewOwn(ctx, start)
	} else {
		err = a.renewOther(ctx, k)
	}
	if ctx.Err() != nil {
		return
	}
	outcome := outcomeOf(err)
	if err != nil {
		a.failed(k, outcome, err)
	}
	a.cfg.Observe(Event{ID: a.idOf(k), Outcome: outcome, Took: time.Since(start), Err: err})
}

func (a *Agent) idOf(k *keeper) spiffeid.ID {
	a.mu.Lock()
	defer a.mu.Unlock()
	return k.id
}

func outcomeOf(err error) Outcome {
	switch {
	case err == nil:
		return Renewed
	case errors.Is(err, errAnswer):
		return BadAnswer
	case errors.Is(err, errNoProof):
		return NoProof
	case isOutage(err):
		return Unreachable
	case isRefusal(err):
		return Refused
	default:
		return Failed
	}
}

// isRefusal reports whether an authority said no.
func isRefusal(err error) bool {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.FailedPrecondition, codes.Unimplemented:
		return true
	default:
		return false
	}
}

// renewOwn asks for the agent's own certificate, by one proof after the other while they are refused.
func (a *Agent) renewOwn(ctx context.Context, now time.Time) error {
	list, problems := a.proofs(now)
	if len(list) == 0 {
		return fmt.Errorf("%w: %w", errNoProof, problems)
	}
	var refusals []error
	for _, p := range list {
		asked := a.cfg.ID
		if p.own != nil {
			asked = p.own.identity.ID
		}
		got, err := a.request(ctx, p, asked)
		if p.join && (err == nil || status.Code(err) == codes.Unauthenticated) {
			a.sent(p)
		}
		if err == nil {
			a.keepOwn(got, p)
			return nil
		}
		if p.join && isRefusal(err) {
			a.joined()
		}
		err = fmt.Errorf("by %s: %w", p.name, err)
		refusals = append(refusals, err)
		if !isRefusal(err) {
			break
		}
	}
	if p := list[len(list)-1]; p.own != nil && p.own.endsBefore(now) && isRefusal(refusals[len(refusals)-1]) {
		refusals = append(refusals, errors.New("the certificate has ended and the authority gives it no grace: "+a.remedy()))
	}
	return errors.Join(append(refusals, problems)...)
}

// remedy is what brings back an agent whose certificate is gone.
func (a *Agent) remedy() string {
	if a.cfg.JoinTokenFile != "" {
		return fmt.Sprintf("make a join token (writ token create) and put it into %s: it is picked up without a restart", a.cfg.JoinTokenFile)
	}
	if a.cfg.TokenFile != "" {
		return "put a fresh service account token into " + a.cfg.TokenFile
	}
	return "configure attest.join_token_file, and make a join token (writ token create)"
}

// renewOther asks for another identity's certificate by the agent's own.
func (a *Agent) renewOther(ctx context.Context, k *keeper) error {
	own := a.ownCertificate()
	if own == nil {
		return errNoOwn
	}
	got, err := a.request(ctx, proof{name: "the agent's certificate", own: own}, k.id)
	if err != nil {
		return err
	}
	if err := a.cfg.Vault.SetIdentity(got.identity); err != nil {
		return fmt.Errorf("%w: %w", errAnswer, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.others[k.id] != k { // dropped while it was asked for
		a.cfg.Vault.RemoveIdentity(k.id)
		return nil
	}
	a.kept(k, got)
	return nil
}

// keepOwn takes a new certificate of the agent's own into use. If it cannot be saved it is used all the same, and an alarm
// says that a restart would need a token.
func (a *Agent) keepOwn(got *held, p proof) {
	a.mu.Lock()
	used := a.usedToken
	a.mu.Unlock()
	err := a.state.saveIdentity(got, used)
	if err != nil {
		err = fmt.Errorf("the certificate is in use, but cannot be saved: a restart would need a token: %w", err)
	}
	a.problem(err)
	if p.join {
		a.removeToken(p)
		a.joined()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.own.id != got.identity.ID {
		a.log.Info("the agent's own identity", "id", got.identity.ID, "before", a.own.id, "by", p.name)
		if k := a.others[a.own.id]; k != nil { // it was shared; from now on it is another's
			k.due = time.Now()
		}
	}
	if p.join { // who was refused before may be granted now
		for _, k := range a.others {
			if k.failures > 0 {
				k.due, k.failures = time.Now(), 0
			}
		}
	}
	a.own.id = got.identity.ID
	a.kept(a.own, got)
	a.shareOwn()
	select {
	case a.renewed <- struct{}{}:
	default:
	}
}

// kept notes a success, and when to renew. The agent's mutex is held.
func (a *Agent) kept(k *keeper, got *held) {
	now := time.Now()
	k.now, k.failures, k.err, k.errTime = got, 0, nil, time.Time{}
	k.due, k.why = got.received.Add(renewalAfter(got.life(), chance())), whyHalfLife
	a.outages, a.paused = 0, time.Time{}
	a.log.Info("certificate", "id", k.id, "serial", fmt.Sprintf("%032x", got.identity.Chain[0].SerialNumber), "not_after", got.notAfter(), "renewal", k.due, "authority", a.authority)
	if b := a.trust.bundle(); b != nil && !got.verifies(b, now) {
		if k.forced { // it is the authority's move
			a.log.Warn("the authority still issues under a root that is about to go", "id", k.id)
		} else {
			k.hurry(now)
			return
		}
	}
	k.forced = false
}

// request has an authority certify a key and checks the answer. The roots that came with it are taken as well.
func (a *Agent) request(ctx context.Context, p proof, asked spiffeid.ID) (*held, error) {
	pair, err := a.keyFor(p)
	if err != nil {
		return nil, err
	}
	fields := map[string]any{}
	if !asked.IsZero() && (p.own == nil || asked != p.own.identity.ID) {
		fields[keyImpersonated] = asked.String()
	}
	meta, err := structpb.NewStruct(fields)
	if err != nil {
		return nil, err
	}
	question := &securityv1.IstioCertificateRequest{Csr: pair.csr, ValidityDuration: int64(a.cfg.TTL / time.Second), Metadata: meta}
	if p.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+p.token)
	}
	var response *securityv1.IstioCertificateResponse
	address, err := a.links.each(ctx, p.own, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		response, err = securityv1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, question)
		return err
	})
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.authority = address
	a.mu.Unlock()
	now := time.Now()
	checked, err := checkAnswer(response.GetCertChain(), pair.signer.Public(), asked, a.cfg.TrustDomain, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	changed, err := a.trust.ofAnswer(checked)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", address, errAnswer, err)
	}
	if changed {
		a.log.Info("the roots changed", "roots", len(checked.roots), "authority", address)
		a.bundleChanged()
	}
	return &held{
		identity: &sds.Identity{ID: checked.id, Chain: checked.chain, Key: pair.pkcs8}, signer: pair.signer, received: now,
	}, nil
}

// failed notes a failure, and when to try again. After an outage everything waits; after a no only the identity that was
// refused. Where a certificate of another identity was refused because ours is no good any more, ours is renewed first.
func (a *Agent) failed(k *keeper, outcome Outcome, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	said := ""
	if k.err != nil {
		said = k.err.Error()
	}
	k.failures++
	k.err, k.errTime, k.why = err, now, whyRetry
	if outcome == Unreachable {
		a.outages++
		a.paused = now.Add(retryAfter(a.outages, a.leastLeft(now), chance()))
		k.due = a.paused
	} else {
		a.outages = 0
		k.due = now.Add(refusedAfter(k.failures, chance()))
	}
	if k != a.own && status.Code(err) == codes.Unauthenticated && a.own.failures == 0 {
		a.own.due = now
	}
	level := k.alarm(now, a.cfg.AlarmPart).log()
	spent := k == a.own && k.now == nil && a.cfg.TokenFile == "" && status.Code(err) == codes.Unauthenticated
	if outcome == NoProof || spent { // nobody will be asked: looking for another token costs nothing
		k.due = now.Add(proofEvery)
	}
	if outcome == NoProof && said == err.Error() {
		level = slog.LevelDebug
	}
	a.log.Log(context.Background(), level, "a certificate was not obtained", "id", k.id, "outcome", string(outcome),
		"attempt", k.failures, "again", k.due.Sub(now).Round(time.Millisecond), "left", k.left(now).Round(time.Second), "error", err)
}

// leastLeft is the time left of the certificate that ends first, 0 if there is none.
func (a *Agent) leastLeft(now time.Time) time.Duration {
	least := time.Duration(0)
	for _, k := range a.keepers() {
		if left := k.left(now); left > 0 && (least == 0 || left < least) {
			least = left
		}
	}
	return least
}

// left is how long the certificate is good, negative if it ended, 0 if there is none.
func (k *keeper) left(now time.Time) time.Duration {
	if k.now == nil {
		return 0
	}
	return k.now.notAfter().Sub(now)
}
