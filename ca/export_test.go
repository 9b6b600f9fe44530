package ca

import "context"

// IssueUnexamined is Issue without compare and without check, to measure what they cost.
func (a *Authority) IssueUnexamined(ctx context.Context, ap *Approval) (*Issued, error) {
	pass := func([]byte) error { return nil }
	return a.issue(ctx, ap, func(*signing, *leaf) (before, after func([]byte) error) { return pass, pass })
}

// ExamineMutated issues with a certificate that mutate has changed, before it is signed or after.
func (a *Authority) ExamineMutated(ctx context.Context, ap *Approval, mutate func([]byte), afterwards bool) error {
	_, err := a.issue(ctx, ap, func(s *signing, l *leaf) (before, after func([]byte) error) {
		compare, check := s.examine(l)
		if afterwards {
			return compare, func(der []byte) error { mutate(der); return check(der) }
		}
		return func(tbs []byte) error { mutate(tbs); return compare(tbs) }, check
	})
	return err
}
