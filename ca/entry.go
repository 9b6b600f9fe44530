package ca

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// The states of an [Entry].
const (
	StateIntended = "intended" // about to be signed, or cut short by a crash: then it is ended as failed
	StateIssued   = "issued"
	StateFailed   = "failed"
)

// skew is how far clocks may be apart: what has ended is remembered for as long after.
const skew = 10 * time.Minute

// everyEntry calls f for each entry of a query, page by page, until f returns false.
func everyEntry(ctx context.Context, l Ledger, q Query, f func(Entry) bool) error {
	q.Limit = 1000
	for {
		entries, next, err := l.Find(ctx, q)
		if err != nil {
			return fmt.Errorf("read the ledger: %w", err)
		}
		for _, e := range entries {
			if !f(e) {
				return nil
			}
		}
		if next == "" {
			return nil
		}
		q.Cursor = next
	}
}

// audit records an act before it is done: one that cannot be recorded is not done.
func audit(ctx context.Context, c Config, by, what string, detail map[string]any) error {
	text, err := json.Marshal(detail)
	if err != nil {
		return fmt.Errorf("audit %s: %w", what, err)
	}
	if err := c.Store.Record(ctx, Event{At: c.Now(), By: by, What: what, Detail: string(text)}); err != nil {
		return fmt.Errorf("audit %s: %w", what, err)
	}
	return nil
}
