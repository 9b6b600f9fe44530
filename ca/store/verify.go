package store

import (
	"context"
	"fmt"
	"time"

	"github.com/writ-auth/writ/ca"
)

const (
	selectPage = `SELECT seq, at, kind, body, prev, hash FROM journal WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT 500`
	selectHash = `SELECT hash FROM journal WHERE seq = $1`
)

// Contents is what a ledger was found to hold.
type Contents struct {
	Schema       int64 // version of its tables
	Records      int64 // of the journal
	Certificates int64 // intents, whatever came of them
	Outcomes     int64 // of those
	Events       int64 // audited acts
	Tokens       int64 // join tokens that nobody has used yet
	Revocations  int64 // of certificates, identities and keys, lifted ones and those that have run out included
	Documents    int64 // of the authority's state: its keys, its roots, its CRLs

	Last time.Time // when the last record was made, by the clock of the authority that made it
	Head [32]byte  // hash of the last record, which the whole journal hangs on
}

// Verify checks all there is: the file, as far as the engine can; the chain, record by record, to its head; and every
// table against the journal. It returns how many records were found good, so that the first bad one is the next. It
// reads one snapshot, a page at a time, while others write.
func (s *Store) Verify(ctx context.Context) (records int64, err error) {
	err = s.engine.snapshot(ctx, func(r reader) error {
		if err := s.engine.integrity(ctx, r); err != nil {
			return err
		}
		found, err := verify(ctx, r)
		records = found.Records
		return err
	})
	if ctx.Err() != nil {
		return records, fmt.Errorf("verify: %w: %w", ca.ErrUnavailable, ctx.Err())
	}
	if err != nil {
		return records, fmt.Errorf("verify: %w", err)
	}
	return records, nil
}

// verify returns what there is, or how many records were found good before the first that is not.
func verify(ctx context.Context, r reader) (Contents, error) {
	head, err := readHead(ctx, r)
	if err != nil {
		return Contents{}, err
	}
	var w walk
	t := tables{reader: r}
	for w.seq < head.seq {
		from := w.seq
		records, err := w.page(ctx, r, head.seq)
		if err != nil {
			return Contents{Records: w.seq}, err
		}
		if good, err := t.page(ctx, from, records); err != nil {
			return Contents{Records: good}, err
		}
		head.at = records[len(records)-1].at
	}
	if w.hash != head.hash {
		return Contents{Records: w.seq - 1}, fmt.Errorf("record %d of the journal is not the one that its head names", head.seq)
	}
	if err := t.end(ctx, head.seq); err != nil {
		return Contents{Records: w.seq}, err
	}
	found := Contents{
		Records: w.seq, Certificates: t.certificates, Outcomes: t.outcomes, Events: t.events, Tokens: t.tokens,
		Revocations: t.revocations, Documents: t.states, Last: time.UnixMicro(head.at).UTC(), Head: head.hash,
	}
	return found, r.query(ctx, selectVersion, nil, func(scan func(...any) error) error { return scan(&found.Schema) })
}

// walk goes along the chain, a page at a time.
type walk struct {
	seq  int64 // last record that was found good
	hash sum   // its hash
}

// resume takes the hash of the record that the walk starts behind on trust.
func (w *walk) resume(ctx context.Context, r reader) error {
	var hash []byte
	err := r.query(ctx, selectHash, []any{w.seq}, func(scan func(...any) error) error { return scan(&hash) })
	if err == nil && copy(w.hash[:], hash) != len(w.hash) {
		err = fmt.Errorf("record %d of the journal is missing", w.seq)
	}
	return err
}

// page checks the next records up to and including last: numbers without a gap, every hash, every link.
func (w *walk) page(ctx context.Context, r reader, last int64) ([]record, error) {
	var records []record
	err := r.query(ctx, selectPage, []any{w.seq, last}, func(scan func(...any) error) error {
		var row recordRow
		if err := scan(row.dest()...); err != nil {
			return fmt.Errorf("record %d of the journal cannot be read: %w", w.seq+1, err)
		}
		rec, err := row.record()
		switch {
		case err != nil:
			return err
		case rec.seq != w.seq+1:
			return fmt.Errorf("record %d of the journal is missing", w.seq+1)
		case rec.prev != w.hash:
			return fmt.Errorf("record %d of the journal does not continue record %d: the chain is broken", rec.seq, w.seq)
		case rec.digest() != rec.hash:
			return fmt.Errorf("record %d of the journal does not match its hash", rec.seq)
		}
		w.seq, w.hash = rec.seq, rec.hash
		records = append(records, rec)
		return nil
	})
	if err == nil && len(records) == 0 {
		err = fmt.Errorf("record %d of the journal is missing", w.seq+1)
	}
	return records, err
}
