package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// forGood is the until_at of a revocation without end.
const forGood = math.MaxInt64

// microUntil is the column of an end, timeUntil the reverse.
func microUntil(t time.Time) int64 {
	if t.IsZero() {
		return forGood
	}
	return t.UnixMicro()
}

func timeUntil(micro int64) time.Time {
	if micro == forGood {
		return time.Time{}
	}
	return time.UnixMicro(micro).UTC()
}

const (
	insertRevocation = `INSERT INTO revocations (at, until_at, reason, by_whom, seq, lifted, number, serial, id, key_hash)
		VALUES ($1, $2, $3, $4, $5, 0, $6, $7, $8, $9)`
	updateRevocation = `UPDATE revocations SET at = $1, until_at = $2, reason = $3, by_whom = $4, seq = $5, lifted = 0
		WHERE number = $6`
	liftRevocation = `UPDATE revocations SET seq = $1, lifted = 1 WHERE number = $2`
	selectRevoked  = `SELECT serial, id, key_hash, at, until_at, reason, by_whom FROM revocations
		WHERE lifted = 0 AND until_at > $1 ORDER BY at, number`
)

// subject is what a revocation is about, as a column and its value.
type subject struct {
	column string
	value  any
}

func subjectOf(r ca.Revocation) subject {
	switch {
	case r.Serial != ca.Serial{}:
		return subject{"serial", r.Serial[:]}
	case !r.ID.IsZero():
		return subject{"id", r.ID.String()}
	default:
		return subject{"key_hash", r.KeyHash[:]}
	}
}

// key names the subject among the members of a group.
func (s subject) key() string { return fmt.Sprintf("revoked %s %s", s.column, s.value) }

// revoked is the row of a subject as it is.
type revoked struct {
	number, at, until, lifted int64
}

func (s subject) ask(into *revoked) *statement {
	return &statement{
		sql:  `SELECT number, at, until_at, lifted FROM revocations WHERE ` + s.column + ` = $1`,
		args: []any{s.value}, dest: []any{&into.number, &into.at, &into.until, &into.lifted},
	}
}

// Revoke puts a certificate, an identity or a key on the deny list. What is on it already stays revoked since the same
// time and never for less long; reason and by are the new ones. A certificate need not be in the ledger.
func (s *Store) Revoke(ctx context.Context, r ca.Revocation) error {
	if err := checkRevocation(r); err != nil {
		return fmt.Errorf("revocation: %w", err)
	}
	r.At = whole(r.At)
	sub := subjectOf(r)
	var old revoked
	ask := sub.ask(&old)
	err := s.submit(ctx, []string{sub.key()}, ask, func() verdict {
		at, until := r.At.UnixMicro(), microUntil(r.Until)
		known := ask.rows > 0
		if known && old.lifted == 0 && old.until > at {
			at, until = min(at, old.at), max(until, old.until)
		}
		body := bodyOf(r)
		body.Since, body.Until = time.UnixMicro(at).UTC(), timeUntil(until)
		rec, err := newRecord(kindRevoked, body)
		if err != nil {
			return refuse(err)
		}
		return verdict{record: rec, rows: func(seq int64) []*statement {
			common := []any{at, until, r.Reason, r.By, seq}
			if known {
				return []*statement{{sql: updateRevocation, args: append(common, old.number)}}
			}
			return []*statement{{sql: insertRevocation, args: append(append(common, seq), sub.columns()...)}}
		}}
	})
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	return nil
}

// columns are the values of serial, id and key_hash: one and two NULLs.
func (s subject) columns() []any {
	out := []any{nil, nil, nil}
	for i, name := range []string{"serial", "id", "key_hash"} {
		if name == s.column {
			out[i] = s.value
		}
	}
	return out
}

func bodyOf(r ca.Revocation) revocationBody {
	b := revocationBody{ID: r.ID, Reason: r.Reason, By: r.By, At: r.At}
	if (r.Serial != ca.Serial{}) {
		b.Serial = (*serial)(&r.Serial)
	}
	if r.KeyHash != [32]byte{} {
		b.KeyHash = (*sum)(&r.KeyHash)
	}
	return b
}

// Unrevoke takes an identity or a key off the deny list; [ca.ErrNotFound] when it is not on it. A certificate's
// revocation is for good and refused with [ca.ErrConflict].
func (s *Store) Unrevoke(ctx context.Context, r ca.Revocation) error {
	if err := errors.Join(checkSubject(r), text("reason", r.Reason, maxWord), text("by", r.By, maxCaller), moment("time", r.At)); err != nil {
		return fmt.Errorf("lift revocation: %w", err)
	}
	if (r.Serial != ca.Serial{}) {
		return fmt.Errorf("lift revocation: %w: a certificate is revoked for good, issue a new one", ca.ErrConflict)
	}
	r.At = whole(r.At)
	sub := subjectOf(r)
	var old revoked
	ask := sub.ask(&old)
	err := s.submit(ctx, []string{sub.key()}, ask, func() verdict {
		if ask.rows == 0 || old.lifted != 0 {
			return refuse(ca.ErrNotFound)
		}
		rec, err := newRecord(kindLifted, bodyOf(r))
		if err != nil {
			return refuse(err)
		}
		return verdict{record: rec, rows: func(seq int64) []*statement {
			return []*statement{{sql: liftRevocation, args: []any{seq, old.number}}}
		}}
	})
	if err != nil {
		return fmt.Errorf("lift revocation: %w", err)
	}
	return nil
}

// Revoked lists the revocations that are in force, oldest first. One dated after now counts as well: a clock that was
// set back must not lift anything.
func (s *Store) Revoked(ctx context.Context, now time.Time) ([]ca.Revocation, error) {
	var out []ca.Revocation
	err := s.query(ctx, selectRevoked, []any{now.UnixMicro()}, func(scan func(...any) error) error {
		var row revocationRow
		if err := scan(row.dest()...); err != nil {
			return err
		}
		r, err := row.revocation()
		out = append(out, *r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list revocations: %w", err)
	}
	return out, nil
}

// revocationRow is a revocation as it is read; all fields are NULL where an outer join found none.
type revocationRow struct {
	serial, keyHash []byte
	id, reason, by  *string
	at, until       *int64
}

// dest is where the columns serial, id, key_hash, at, until_at, reason, by_whom go.
func (r *revocationRow) dest() []any {
	return []any{&r.serial, &r.id, &r.keyHash, &r.at, &r.until, &r.reason, &r.by}
}

// revocation is nil when there is none.
func (r *revocationRow) revocation() (*ca.Revocation, error) {
	if r.at == nil {
		return nil, nil //nolint:nilnil // no revocation is an answer
	}
	out := &ca.Revocation{Reason: *r.reason, By: *r.by, At: time.UnixMicro(*r.at).UTC(), Until: timeUntil(*r.until)}
	copy(out.Serial[:], r.serial)
	copy(out.KeyHash[:], r.keyHash)
	if r.id == nil {
		return out, nil
	}
	id, err := spiffeid.Parse(*r.id)
	out.ID = id
	return out, err
}
