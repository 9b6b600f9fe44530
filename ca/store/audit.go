package store

import (
	"context"
	"fmt"
	"time"

	"github.com/writ-auth/writ/ca"
)

const (
	insertEvent = `INSERT INTO events (seq, at) VALUES ($1, $2)`
	spansEvent  = "event"
)

// Record adds an event to the journal.
func (s *Store) Record(ctx context.Context, event ca.Event) error {
	if err := checkEvent(event); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	at := whole(event.At)
	err := s.submit(ctx, nil, nil, func() verdict {
		r, err := newRecord(kindEvent, eventBody{At: at, By: event.By, What: event.What, Detail: event.Detail})
		if err != nil {
			return refuse(err)
		}
		return verdict{record: r, when: at, spans: spansEvent, rows: func(seq int64) []*statement {
			return []*statement{{sql: insertEvent, args: []any{seq, at.UnixMicro()}}}
		}}
	})
	if err != nil {
		return fmt.Errorf("record %s: %w", event.What, err)
	}
	return nil
}

// Events returns the events at or after one time and before another, newest first; a zero time does not restrict. limit
// is 1 to 1000, default 100.
func (s *Store) Events(ctx context.Context, after, before time.Time, limit int) ([]ca.Event, error) {
	limit, err := pageSize(limit)
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	var b builder
	b.add(`SELECT ` + recordColumns("j") + ` FROM events e JOIN journal j ON j.seq = e.seq WHERE e.seq > 0`)
	none, err := s.between(ctx, &b, spansEvent, "e.at", "e.seq", after, before)
	if err != nil || none {
		return nil, err
	}
	b.add(` ORDER BY e.seq DESC`)
	b.limit(limit)
	var out []ca.Event
	err = s.query(ctx, b.sql.String(), b.args, func(scan func(...any) error) error {
		var row recordRow
		if err := scan(row.dest()...); err != nil {
			return err
		}
		var body eventBody
		if err := row.decode(kindEvent, &body); err != nil {
			return err
		}
		out = append(out, ca.Event(body))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	return out, nil
}
