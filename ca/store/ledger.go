package store

import (
	"context"
	"fmt"
	"time"

	"github.com/writ-auth/writ/ca"
)

// States of a certificate in its table.
const (
	stateIntended = iota
	stateIssued
	stateFailed
)

const (
	// selectTaken has one row: the intent that has the serial number, and whom the key belongs to. All that have a key have
	// the same identity, so that the newest one tells.
	selectTaken = `SELECT (SELECT seq FROM certificates WHERE serial = $1),
		(SELECT id FROM certificates WHERE key_hash = $2 ORDER BY seq DESC LIMIT 1)`
	selectSerial      = `SELECT seq, state FROM certificates WHERE serial = $1`
	insertCertificate = `INSERT INTO certificates (seq, serial, id, caller, issuer, key_hash, not_after, at, state)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)`
	endCertificate = `UPDATE certificates SET state = $1, outcome = $2 WHERE seq = $3`

	spansCertificate = "certificate"
)

// Begin records an intent. [ca.ErrSerialExists] when the serial was ever used, for a failure too; [ca.ErrKeyInUse] when the
// key is another identity's. Times are kept to the microsecond, those of the certificate to the second.
//
// Both are asked by the transaction that writes. There is one at a time: in SQLite there is one writer; in PostgreSQL the
// transaction holds the lock on the journal's head, and its questions, each of which reads what was committed when it is
// asked, come after the lock. Within a group no two members have a serial number or a key in common.
func (s *Store) Begin(ctx context.Context, i ca.Intent) error {
	if err := checkIntent(i); err != nil {
		return fmt.Errorf("intent: %w", err)
	}
	var used *int64
	var owner *string
	ask := &statement{sql: selectTaken, args: []any{i.Serial[:], i.KeyHash[:]}, dest: []any{&used, &owner}}
	err := s.submit(ctx, []string{serialKey(i.Serial), "key " + string(i.KeyHash[:])}, ask, func() verdict {
		switch {
		case used != nil:
			return refuse(ca.ErrSerialExists)
		case owner != nil && *owner != i.ID.String():
			return refuse(fmt.Errorf("%w: key %x", ca.ErrKeyInUse, i.KeyHash))
		}
		return begun(i)
	})
	if err != nil {
		return fmt.Errorf("begin %s: %w", i.Serial, err)
	}
	return nil
}

// serialKey names a serial number among what members of a group touch.
func serialKey(s ca.Serial) string { return "serial " + string(s[:]) }

func begun(i ca.Intent) verdict {
	notAfter, at := i.NotAfter.UTC().Truncate(time.Second), whole(i.At)
	r, err := newRecord(kindIntent, intentBody{
		Serial: serial(i.Serial), ID: i.ID, Issuer: i.Issuer, Caller: i.Caller, Profile: i.Profile, TTLRule: i.TTLRule,
		KeyHash: i.KeyHash, NotBefore: i.NotBefore.UTC().Truncate(time.Second), NotAfter: notAfter, At: at,
	})
	if err != nil {
		return refuse(err)
	}
	return verdict{record: r, when: at, spans: spansCertificate, rows: func(seq int64) []*statement {
		return []*statement{{sql: insertCertificate, args: []any{
			seq, i.Serial[:], i.ID.String(), i.Caller, i.Issuer, i.KeyHash[:], notAfter.UnixMicro(), at.UnixMicro(),
		}}}
	}}
}

// Finish ends an intent, once: [ca.ErrNotFound] when there is none, [ca.ErrConflict] when it has ended.
func (s *Store) Finish(ctx context.Context, o ca.Outcome) error {
	if err := checkOutcome(o); err != nil {
		return fmt.Errorf("outcome: %w", err)
	}
	var seq, state int64
	ask := &statement{sql: selectSerial, args: []any{o.Serial[:]}, dest: []any{&seq, &state}}
	err := s.submit(ctx, []string{serialKey(o.Serial)}, ask, func() verdict {
		switch {
		case ask.rows == 0:
			return refuse(fmt.Errorf("%w: no intent has this serial", ca.ErrNotFound))
		case state != stateIntended:
			return refuse(fmt.Errorf("%w: the intent has ended before", ca.ErrConflict))
		}
		return finished(o, seq)
	})
	if err != nil {
		return fmt.Errorf("finish %s: %w", o.Serial, err)
	}
	return nil
}

func finished(o ca.Outcome, intent int64) verdict {
	body := outcomeBody{Serial: serial(o.Serial), Intent: intent, Certificate: o.Certificate, Failure: o.Failure, At: whole(o.At)}
	r, err := newRecord(kindOutcome, body)
	if err != nil {
		return refuse(err)
	}
	return verdict{record: r, rows: func(seq int64) []*statement {
		return []*statement{{sql: endCertificate, args: []any{body.state(), seq, intent}}}
	}}
}

// state is what the outcome makes of the certificate.
func (o *outcomeBody) state() int64 {
	if o.Failure != "" {
		return stateFailed
	}
	return stateIssued
}
