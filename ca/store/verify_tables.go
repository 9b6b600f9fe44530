package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// tables holds the tables against the journal: each record against its rows, and in the end the number of rows against
// the number of records that make one, so that no row is missing, wrong or too many.
type tables struct {
	reader

	certificates, outcomes, events, tokens, grants, revocations, states int64 // rows there have to be
	covered                                                             spanRange
}

// page checks the records that follow from. It returns the last record that was found good.
func (t *tables) page(ctx context.Context, from int64, records []record) (good int64, err error) {
	rows, err := t.certificateRows(ctx, from, from+int64(len(records)))
	if err != nil {
		return from, err
	}
	for i := range records {
		r := &records[i]
		if err := t.record(ctx, r, rows); err != nil {
			return r.seq - 1, fmt.Errorf("record %d (%s): %w", r.seq, r.kind, err)
		}
	}
	if len(rows) > 0 {
		return from, fmt.Errorf("%d certificates of the table are not intents of the journal, between records %d and %d", len(rows), from, from+int64(len(records)))
	}
	return from + int64(len(records)), nil
}

// record checks one record; it takes its certificate out of rows.
func (t *tables) record(ctx context.Context, r *record, rows map[int64]*certificateRow) error {
	switch r.kind {
	case kindCreated, kindRestored:
		return nil
	case kindIntent:
		return check(r, func(b intentBody) error {
			row := rows[r.seq]
			delete(rows, r.seq)
			t.certificates++
			if err := row.compare(b); err != nil {
				return err
			}
			return t.span(ctx, spanRange{spansCertificate, span(b.At), r.seq, r.seq})
		})
	case kindOutcome:
		t.outcomes++
		return nil // the row points here; certificateRow.compare has seen that
	case kindEvent:
		return check(r, func(b eventBody) error { return t.event(ctx, r, b) })
	case kindToken:
		t.tokens++
		return nil // end compares rows with records
	case kindUsed, kindExpired:
		return check(r, func(b takenBody) error { return t.taken(ctx, r, b) })
	case kindRevoked, kindLifted:
		return check(r, func(b revocationBody) error { return t.revocation(ctx, r, b) })
	case kindState:
		return check(r, func(b stateBody) error { return t.state(ctx, r, b) })
	default:
		return errors.New("this writ does not know such records: use the one that wrote it, or a newer one")
	}
}

// check decodes the body of a record whose hash was found good.
func check[T any](r *record, test func(T) error) error {
	var body T
	if err := json.Unmarshal(r.body, &body); err != nil {
		return fmt.Errorf("its body cannot be read: %w", err)
	}
	return test(body)
}

// certificateRow is a row of certificates with the record of its outcome.
type certificateRow struct {
	seq                int64
	serial, keyHash    []byte
	id, caller, issuer string
	notAfter, at       int64
	state              int64
	outcome            *int64
	kind               *string
	body               []byte
}

const selectCertificates = `SELECT c.seq, c.serial, c.key_hash, c.id, c.caller, c.issuer, c.not_after, c.at, c.state, c.outcome, o.kind, o.body
	FROM certificates c LEFT JOIN journal o ON o.seq = c.outcome WHERE c.seq > $1 AND c.seq <= $2 ORDER BY c.seq`

func (t *tables) certificateRows(ctx context.Context, from, to int64) (map[int64]*certificateRow, error) {
	rows := make(map[int64]*certificateRow)
	err := t.query(ctx, selectCertificates, []any{from, to}, func(scan func(...any) error) error {
		r := new(certificateRow)
		err := scan(&r.seq, &r.serial, &r.keyHash, &r.id, &r.caller, &r.issuer, &r.notAfter, &r.at, &r.state, &r.outcome, &r.kind, &r.body)
		rows[r.seq] = r
		return err
	})
	return rows, err
}

func (r *certificateRow) compare(b intentBody) error {
	if r == nil {
		return fmt.Errorf("serial %x is missing from the table of certificates", b.Serial)
	}
	same := bytes.Equal(r.serial, b.Serial[:]) && bytes.Equal(r.keyHash, b.KeyHash[:]) && r.id == b.ID.String() &&
		r.caller == b.Caller && r.issuer == b.Issuer && r.notAfter == b.NotAfter.UnixMicro() && r.at == b.At.UnixMicro()
	if !same {
		return fmt.Errorf("the table of certificates says something else of serial %x", b.Serial)
	}
	if r.outcome == nil {
		return nil
	}
	var o outcomeBody
	if r.kind == nil || *r.kind != kindOutcome || json.Unmarshal(r.body, &o) != nil || o.Serial != b.Serial || o.Intent != r.seq {
		return fmt.Errorf("record %d is not the outcome of serial %x", *r.outcome, b.Serial)
	}
	if want := o.state(); r.state != want {
		return fmt.Errorf("the table of certificates has serial %x in state %d, its outcome says %d", b.Serial, r.state, want)
	}
	return nil
}

// span demands that a record is found by its time.
func (t *tables) span(ctx context.Context, r spanRange) error {
	if c := t.covered; c.kind == r.kind && c.span == r.span && c.first <= r.first && r.first <= c.last {
		return nil
	}
	c := spanRange{kind: r.kind, span: r.span}
	err := t.query(ctx, `SELECT first_seq, last_seq FROM spans WHERE kind = $1 AND span = $2`, []any{r.kind, r.span}, func(scan func(...any) error) error {
		return scan(&c.first, &c.last)
	})
	if err == nil && (r.first < c.first || c.last < r.first) {
		err = errors.New("its time is not in the table of spans")
	}
	t.covered = c
	return err
}

func (t *tables) event(ctx context.Context, r *record, b eventBody) error {
	t.events++
	n, err := t.count(ctx, `SELECT count(*) FROM events WHERE seq = $1 AND at = $2`, r.seq, b.At.UnixMicro())
	if err == nil && n != 1 {
		err = errors.New("it is missing from the table of events")
	}
	if err != nil {
		return err
	}
	return t.span(ctx, spanRange{spansEvent, span(b.At), r.seq, r.seq})
}

// taken: the token is gone, and what it grants is there.
func (t *tables) taken(ctx context.Context, r *record, b takenBody) error {
	t.tokens--
	n, err := t.count(ctx, `SELECT count(*) FROM tokens WHERE hash = $1 AND seq < $2`, b.Hash[:], r.seq)
	if err == nil && n != 0 {
		err = errors.New("the join token that was taken is there again")
	}
	if err != nil || r.kind == kindExpired {
		return err
	}
	t.grants += int64(len(b.IDs))
	var ids []string
	err = t.query(ctx, `SELECT id FROM grants WHERE seq = $1 AND hash = $2`, []any{r.seq, b.Hash[:]}, func(scan func(...any) error) error {
		var id string
		err := scan(&id)
		ids = append(ids, id)
		return err
	})
	if err != nil {
		return err
	}
	want := make([]string, len(b.IDs))
	for i, id := range b.IDs {
		want[i] = id.String()
	}
	slices.Sort(ids)
	slices.Sort(want)
	if !slices.Equal(ids, want) {
		return fmt.Errorf("the table of grants has %d identities, not those %d of the join token", len(ids), len(want))
	}
	return nil
}

// revocation: the row of the subject is of this record or of a later one.
func (t *tables) revocation(ctx context.Context, r *record, b revocationBody) error {
	sub := b.subject()
	var number, at, until, seq, lifted int64
	var reason, by string
	err := t.query(ctx, `SELECT number, at, until_at, reason, by_whom, seq, lifted FROM revocations WHERE `+sub.column+` = $1`, []any{sub.value},
		func(scan func(...any) error) error { return scan(&number, &at, &until, &reason, &by, &seq, &lifted) })
	if err != nil {
		return err
	}
	if number == r.seq {
		t.revocations++
	}
	switch {
	case seq < r.seq || number > r.seq || number == 0:
		return errors.New("the table of revocations does not have it")
	case seq > r.seq:
		return nil
	case r.kind == kindLifted && lifted == 1:
		return nil
	case r.kind == kindRevoked && lifted == 0 && at == b.Since.UnixMicro() && until == microUntil(b.Until) && reason == b.Reason && by == b.By:
		return nil
	}
	return errors.New("the table of revocations says something else")
}

func (b *revocationBody) subject() subject {
	switch {
	case b.Serial != nil:
		return subject{"serial", b.Serial[:]}
	case b.KeyHash != nil:
		return subject{"key_hash", b.KeyHash[:]}
	default:
		return subject{"id", b.ID.String()}
	}
}

// state: the document is of this record or of a later one.
func (t *tables) state(ctx context.Context, r *record, b stateBody) error {
	if b.Version == 1 {
		t.states++
	}
	var version, seq int64
	var value, hash []byte
	err := t.query(ctx, `SELECT version, value, sum, seq FROM state WHERE name = $1`, []any{b.Key}, func(scan func(...any) error) error {
		return scan(&version, &value, &hash, &seq)
	})
	switch {
	case err != nil:
		return err
	case seq > r.seq && version > b.Version:
		return nil
	case seq != r.seq || version != b.Version || sha256.Sum256(value) != b.Sum || !bytes.Equal(hash, b.Sum[:]):
		return fmt.Errorf("the value of %q is not the one that was recorded", b.Key)
	}
	return nil
}

// end compares the sizes of the tables, and the join tokens, with the journal.
func (t *tables) end(ctx context.Context, head int64) error {
	for _, c := range []struct {
		what, sql string
		want      int64
	}{
		{"records", `SELECT count(*) FROM journal`, head},
		{"certificates", `SELECT count(*) FROM certificates`, t.certificates},
		{"outcomes", `SELECT count(outcome) FROM certificates`, t.outcomes},
		{"events", `SELECT count(*) FROM events`, t.events},
		{"join tokens", `SELECT count(*) FROM tokens`, t.tokens},
		{"grants", `SELECT count(*) FROM grants`, t.grants},
		{"revocations", `SELECT count(*) FROM revocations`, t.revocations},
		{"documents", `SELECT count(*) FROM state`, t.states},
	} {
		n, err := t.count(ctx, c.sql)
		if err != nil {
			return err
		}
		if n != c.want {
			return fmt.Errorf("there are %d %s, the journal makes %d", n, c.what, c.want)
		}
	}
	return t.query(ctx, `SELECT t.hash, t.body, j.kind, j.body FROM tokens t LEFT JOIN journal j ON j.seq = t.seq`, nil, func(scan func(...any) error) error {
		var hash, body, recorded []byte
		var kind *string
		if err := scan(&hash, &body, &kind, &recorded); err != nil {
			return err
		}
		var b tokenBody
		if kind == nil || *kind != kindToken || !bytes.Equal(body, recorded) || json.Unmarshal(body, &b) != nil || !bytes.Equal(b.Hash[:], hash) {
			return fmt.Errorf("join token %x is not the one that was recorded", hash)
		}
		return nil
	})
}

func (t *tables) count(ctx context.Context, sql string, args ...any) (n int64, err error) {
	err = t.query(ctx, sql, args, func(scan func(...any) error) error { return scan(&n) })
	return n, err
}
