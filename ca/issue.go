package ca

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	// finishTime is how long recording an outcome may take after the caller has gone: the outcome is still owed.
	finishTime = 10 * time.Second
	// maxDraws bounds how often a serial number is drawn: a second time is unheard of, a third is a broken generator.
	maxDraws = 3
)

// Issued is a certificate and the chain to answer with.
type Issued struct {
	// Chain is in PEM, each element ending in a newline: the leaf; the issuers between it and the roots, one each, none
	// with a single intermediate directly under the root but that one; last, in one element, all roots of the bundle.
	// Agents take the last element for their trust anchors.
	Chain       []string
	Certificate []byte // the leaf in DER
	ID          spiffeid.ID
	Serial      Serial
	NotBefore   time.Time
	NotAfter    time.Time
	TTL         time.Duration // from issuing to NotAfter
	TTLRule     string        // what set it: requested, default, min, max, issuer
	Issuer      string        // subject key identifier in hex
	Bundle      int64         // version of the roots in Chain
}

// Issue redeems an approval. The certificate it returns is in the ledger, durably; an error says that none was handed
// out, though the ledger may know an intent that came to nothing.
//
// Errors: [ErrRedeemed], [ErrRevoked], [ErrCSR] for a key that belongs to another, [ErrNotReady], [ErrSelfCheck], and
// what the store says, such as [ErrUnavailable] and [ErrOverloaded].
func (a *Authority) Issue(ctx context.Context, ap *Approval) (*Issued, error) {
	issued, err := a.issue(ctx, ap, (*signing).examine)
	if err != nil {
		return nil, fmt.Errorf("issue for %s: %w", ap.id, err)
	}
	return issued, nil
}

// examination is what a certificate goes through before and after it is signed.
type examination func(*signing, *leaf) (before, after func(der []byte) error)

func (a *Authority) issue(ctx context.Context, ap *Approval, examine examination) (*Issued, error) {
	// 1. An approval works once.
	if ap.redeemed.Swap(true) {
		return nil, ErrRedeemed
	}
	// 2. to 4. Something can sign, and neither identity nor key speaks against it.
	s, err := a.admit(ap)
	if err != nil {
		return nil, err
	}
	// 5. The lifetime fits into the issuer's.
	now := a.cfg.Now()
	from, to, rule, err := validity(now, ap.ttl, ap.rule, s.issuer.NotBefore, s.issuer.NotAfter)
	if rule == TTLIssuer || err != nil {
		a.alarms.raise(AlarmLifetimeCut, fmt.Sprintf("issuer %s ends at %s", s.name, s.issuer.NotAfter.Format(time.RFC3339)), now)
	}
	if err != nil {
		return nil, err
	}
	// 6. The certificate is built, examined, and its intent recorded, unless the key is another identity's.
	l := &leaf{from: from, to: to, id: ap.id, key: ap.key, dns: ap.dns, ips: ap.ips}
	before, after := examine(s, l)
	tbs, err := a.intend(ctx, s, l, ap, rule, before)
	if err != nil {
		return nil, err
	}
	// 7. The one signature.
	signature, err := s.key.sign(ctx, digest(s.hash, tbs), s.hash)
	if err != nil {
		return nil, a.abandon(ctx, l.serial, fmt.Errorf("%w: %w", ErrNotReady, err))
	}
	// 8. What was signed is what was examined.
	der := s.template.certificate(tbs, signature)
	if err := after(der); err != nil {
		a.alarms.raise(AlarmSelfCheck, err.Error(), now)
		return nil, a.abandon(ctx, l.serial, err)
	}
	// 9. The outcome is recorded. Before that, nobody sees the certificate.
	if err := a.finish(ctx, Outcome{Serial: l.serial, Certificate: der, At: now}); err != nil {
		return nil, err
	}
	// 10. Nothing was revoked meanwhile: once Revoke has returned, no certificate is handed out.
	if a.deny.ID(ap.id.String()) || a.deny.Key(ap.key.hash) {
		return nil, fmt.Errorf("%w: while the certificate %s was made", ErrRevoked, l.serial)
	}
	// 11. The answer.
	return &Issued{
		Chain: s.answer(der), Certificate: der, ID: ap.id, Serial: l.serial, NotBefore: from, NotAfter: to,
		TTL: to.Sub(now.UTC().Truncate(time.Second)), TTLRule: rule, Issuer: s.name, Bundle: s.bundle.Version,
	}, nil
}

// admit says what signs for an approval now, after steps 2 to 4 of issuing.
func (a *Authority) admit(ap *Approval) (*signing, error) {
	// 2. Something can sign, and this identity is its business.
	s := a.current.Load()
	if s == nil {
		return nil, fmt.Errorf("%w: it has no signing certificate", ErrNotReady)
	}
	if err := checkWorkload(ap.id, a.cfg.TrustDomain); err != nil {
		return nil, err
	}
	// 3. Neither identity nor key is revoked.
	if a.deny.ID(ap.id.String()) {
		return nil, fmt.Errorf("%w: the identity", ErrRevoked)
	}
	if a.deny.Key(ap.key.hash) {
		return nil, fmt.Errorf("%w: the key %x", ErrRevoked, ap.key.hash)
	}
	// 4. The key may be a workload's.
	return s, a.checkKey(s, ap)
}

// examine compares what is about to be signed with what was approved, and checks what was signed.
func (s *signing) examine(l *leaf) (before, after func([]byte) error) {
	var compared []byte
	before = func(tbs []byte) error {
		compared = tbs
		return s.compare(tbs, l)
	}
	after = func(der []byte) error { return s.check(der, compared) }
	return before, after
}

// checkKey refuses a key that is an authority's or is known to be bad. Whether it is another identity's is for the ledger
// to say, which alone can when several replicas are asked at once, see [Ledger].
func (a *Authority) checkKey(s *signing, ap *Approval) error {
	if _, ours := s.caKeys[ap.key.hash]; ours {
		return refuse(ReasonKeyReused, "the key %x is an authority's", ap.key.hash)
	}
	if _, bad := a.blocked[ap.key.hash]; bad {
		return refuse(ReasonKeyBlocked, "the key %x is on the blocklist", ap.key.hash)
	}
	return nil
}

// intend draws a serial number that was never used, builds and examines the certificate to be, and records the intent.
func (a *Authority) intend(ctx context.Context, s *signing, l *leaf, ap *Approval, rule string, examine func([]byte) error) ([]byte, error) {
	for range maxDraws {
		l.serial = newSerial()
		tbs := s.template.tbs(l)
		if err := examine(tbs); err != nil {
			a.alarms.raise(AlarmSelfCheck, err.Error(), a.cfg.Now())
			return nil, err
		}
		err := a.cfg.Store.Begin(ctx, Intent{
			Serial: l.serial, ID: l.id, Issuer: s.name, Caller: ap.caller, Profile: ap.profile.name, TTLRule: rule,
			KeyHash: l.key.hash, NotBefore: l.from, NotAfter: l.to, At: a.cfg.Now(),
		})
		switch {
		case err == nil:
			return tbs, nil
		case errors.Is(err, ErrKeyInUse):
			return nil, refuse(ReasonKeyReused, "the key %x was used for another identity: make a new key", l.key.hash)
		case !errors.Is(err, ErrSerialExists):
			if errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrOverloaded) && ctx.Err() == nil { // a full disk, a database that is gone
				a.alarms.raise(AlarmLedger, err.Error(), a.cfg.Now())
			}
			return nil, fmt.Errorf("record the intent: %w", err)
		}
	}
	return nil, fmt.Errorf("%w: %d random serial numbers in a row were used before", ErrSelfCheck, maxDraws)
}

// abandon records that an intent came to nothing, and returns why.
func (a *Authority) abandon(ctx context.Context, serial Serial, cause error) error {
	return errors.Join(cause, a.finish(ctx, Outcome{Serial: serial, Failure: cause.Error(), At: a.cfg.Now()}))
}

// finish records an outcome, even for a caller that has gone: what was signed is to be known.
func (a *Authority) finish(ctx context.Context, o Outcome) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTime)
	defer cancel()
	if err := a.cfg.Store.Finish(ctx, o); err != nil {
		a.alarms.raise(AlarmLedger, err.Error(), a.cfg.Now())
		return fmt.Errorf("record the outcome of %s: %w", o.Serial, err)
	}
	return nil
}
