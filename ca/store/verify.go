package store

import (
	"context"
	"fmt"

	"github.com/writ-auth/writ/ca"
)

const (
	selectPage = `SELECT seq, at, kind, body, prev, hash FROM journal WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT 500`
	selectHash = `SELECT hash FROM journal WHERE seq = $1`
)

// Verify checks all there is: the file, as far as the engine can; the chain, record by record, to its head; and every
// table against the journal. It returns how many records were found good, so that the first bad one is the next. It
// reads one snapshot, a page at a time, while others write.
func (s *Store) Verify(ctx context.Context) (records int64, err error) {
	err = s.engine.snapshot(ctx, func(r reader) error {
		if err := s.engine.integrity(ctx, r); err != nil {
			return err
		}
		records, err = verify(ctx, r)
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

func verify(ctx context.Context, r reader) (int64, error) {
	head, err := readHead(ctx, r)
	if err != nil {
		return 0, err
	}
	var w walk
	t := tables{reader: r}
	for w.seq < head.seq {
		from := w.seq
		records, err := w.page(ctx, r, head.seq)
		if err != nil {
			return w.seq, err
		}
		if good, err := t.page(ctx, from, records); err != nil {
			return good, err
		}
	}
	if w.hash != head.hash {
		return w.seq - 1, fmt.Errorf("record %d of the journal is not the one that its head names", head.seq)
	}
	return w.seq, t.end(ctx, head.seq)
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
