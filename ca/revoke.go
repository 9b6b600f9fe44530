package ca

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// crlReasons are the reasons a revocation may have, with their codes (RFC 5280 §5.3.1). Hold and its release are left
// out: a certificate's revocation is for good.
func crlReasons() map[string]int {
	return map[string]int{
		"unspecified": 0, "keyCompromise": 1, "affiliationChanged": 3, "superseded": 4, "cessationOfOperation": 5,
		"privilegeWithdrawn": 9,
	}
}

// Revoke puts a certificate (by serial number), an identity or a key on the deny list: from when it returns, nothing is
// issued for it here, [DenyList] has it, and the CRLs list every certificate it concerns that has not ended. The reason
// defaults to unspecified, At to now; a certificate's Until is set from its own end.
//
// ErrNotFound says that the ledger has no such certificate, ErrReason that there is no such reason. An error may come after the revocation is durable, when only
// the CRL could not be made: it is made again by Run, and an alarm is up until then.
func (a *Authority) Revoke(ctx context.Context, r Revocation) error {
	r, err := a.checkRevocation(ctx, r)
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	if err := a.cfg.Store.Revoke(ctx, r); err != nil {
		return fmt.Errorf("revoke %s: %w", r.subject(), err)
	}
	return a.afterRevocation(ctx, r)
}

// Unrevoke takes an identity or a key off the deny list. A certificate's revocation stays.
func (a *Authority) Unrevoke(ctx context.Context, r Revocation) error {
	if !r.Serial.IsZero() || r.By == "" {
		return errors.New("lift a revocation: want an identity or a key, and who asks; a certificate's is for good")
	}
	if r.At.IsZero() {
		r.At = a.cfg.Now()
	}
	if err := a.cfg.Store.Unrevoke(ctx, r); err != nil {
		return fmt.Errorf("lift the revocation of %s: %w", r.subject(), err)
	}
	return a.afterRevocation(ctx, r)
}

// afterRevocation makes a change of the store felt. The deny list first, waiting for nothing else: it is what acts at once.
func (a *Authority) afterRevocation(ctx context.Context, r Revocation) error {
	if err := a.refreshDenyList(ctx); err != nil {
		a.alarms.raise(AlarmState, err.Error(), a.cfg.Now())
		return fmt.Errorf("%s is recorded, but: %w", r.subject(), err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.refreshCRLs(ctx); err != nil {
		return fmt.Errorf("%s is denied from now on, but: %w", r.subject(), err)
	}
	return nil
}

// checkRevocation fills in what is left out, and refuses what would be no revocation.
func (a *Authority) checkRevocation(ctx context.Context, r Revocation) (Revocation, error) {
	set := 0
	for _, is := range []bool{!r.Serial.IsZero(), !r.ID.IsZero(), r.KeyHash != [32]byte{}} {
		if is {
			set++
		}
	}
	if set != 1 || r.By == "" {
		return r, errors.New("want one of certificate, identity and key, and who asks")
	}
	if r.Reason == "" {
		r.Reason = "unspecified"
	}
	if err := CheckReason(r.Reason); err != nil {
		return r, err
	}
	if r.At.IsZero() {
		r.At = a.cfg.Now()
	}
	if !r.ID.IsZero() {
		return r, checkWorkload(r.ID, a.cfg.TrustDomain)
	}
	if r.Serial.IsZero() {
		return r, nil
	}
	entries, _, err := a.cfg.Store.Find(ctx, Query{Serial: r.Serial, Limit: 1})
	switch {
	case err != nil:
		return r, fmt.Errorf("read the ledger: %w", err)
	case len(entries) == 0:
		return r, fmt.Errorf("certificate %s: %w", r.Serial, ErrNotFound)
	case entries[0].Profile == profileIntermediate:
		return r, fmt.Errorf("certificate %s is an intermediate: rotate the root, which renews every certificate under it", r.Serial)
	}
	r.Until = entries[0].NotAfter.Add(skew)
	return r, nil
}

// ReasonError is a reason that no certificate can be revoked for. It is an [ErrReason].
type ReasonError struct {
	Reason string
}

// Error names the reason, and those there are.
func (e *ReasonError) Error() string {
	return fmt.Sprintf("reason %.50q: want one of %s", e.Reason, strings.Join(RevocationReasons(), ", "))
}

// Is makes every ReasonError an [ErrReason].
func (e *ReasonError) Is(target error) bool { return target == ErrReason }

// CheckReason returns a [*ReasonError] unless a revocation may have the reason. The empty reason, which stands for
// unspecified, is one.
func CheckReason(reason string) error {
	if _, ok := crlReasons()[reason]; !ok && reason != "" {
		return &ReasonError{reason}
	}
	return nil
}

// RevocationReasons lists the reasons that [Authority.Revoke] takes, sorted.
func RevocationReasons() []string {
	names := make([]string, 0, len(crlReasons()))
	for name := range crlReasons() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// subject names what is revoked.
func (r Revocation) subject() string {
	switch {
	case !r.ID.IsZero():
		return r.ID.String()
	case !r.Serial.IsZero():
		return "certificate " + r.Serial.String()
	default:
		return "key " + hex.EncodeToString(r.KeyHash[:])
	}
}
