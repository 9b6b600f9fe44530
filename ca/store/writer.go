package store

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/writ-auth/writ/ca"
)

// member is one change that waits to be written, on its own or with others in a group.
type member struct {
	keys   []string       // what it touches; no two members of a group touch the same
	ask    *statement     // runs first: reads what decides, or decides by writing
	settle func() verdict // judges what ask found

	state   atomic.Int32 // waiting, taken or abandoned
	verdict verdict      // the writer's
	done    chan error   // receives once
}

const (
	waiting   = iota
	taken     // by the writer: too late to call off
	abandoned // by its caller: never to be written
)

// verdict is what becomes of a member.
type verdict struct {
	record *record                      // nil = the journal does not change
	when   time.Time                    // with spans: the time to find the record by
	spans  string                       // kind of span, empty = not searched by time
	rows   func(seq int64) []*statement // what follows from the record
	miss   bool                         // a join token that is not known
	err    error                        // the caller's answer once all is written
}

// refuse is the verdict that changes nothing.
func refuse(err error) verdict { return verdict{err: err} }

// submit queues a change and waits until it is on disk. It returns early when ctx ends: the change is then called off,
// or, if the writer has it already, of unknown outcome.
func (s *Store) submit(ctx context.Context, keys []string, ask *statement, settle func() verdict) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ca.ErrUnavailable, err)
	}
	m := &member{keys: keys, ask: ask, settle: settle, done: make(chan error, 1)}
	if err := s.enqueue(m); err != nil {
		return err
	}
	select {
	case err := <-m.done:
		return err
	case <-ctx.Done():
	}
	if m.state.CompareAndSwap(waiting, abandoned) {
		return fmt.Errorf("%w: nothing was written: %w", ca.ErrUnavailable, ctx.Err())
	}
	return fmt.Errorf("%w: it is unknown whether this was written: %w", ca.ErrUnavailable, ctx.Err())
}

func (s *Store) enqueue(m *member) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return fmt.Errorf("%w: it is closed", ca.ErrUnavailable)
	}
	select {
	case s.queue <- m:
		return nil
	default:
		s.stats.refused.Add(1)
		return fmt.Errorf("%w: %w, %d of them", ca.ErrUnavailable, ca.ErrOverloaded, cap(s.queue))
	}
}

// serve is the writer: the only goroutine that changes anything. It ends when the queue is closed and empty.
func (s *Store) serve() {
	defer close(s.served)
	var group, held []*member
	for {
		group, held = s.gather(held)
		if len(group) == 0 {
			return
		}
		s.stats.held.Store(int64(len(held)))
		err := s.write(group)
		for _, m := range group {
			if err != nil {
				m.done <- err
			} else {
				m.done <- m.verdict.err
			}
		}
	}
}

// gather waits for a change and takes all that have come meanwhile, up to a group. Those that touch the same thing
// are held for the next group, as many as may wait; they do not take the place of others. No member comes back when the
// store is closed and nothing is left.
func (s *Store) gather(held []*member) (group, later []*member) {
	touched := make(map[string]bool, len(held))
	add := func(m *member) {
		if slices.ContainsFunc(m.keys, func(key string) bool { return touched[key] }) {
			later = append(later, m)
		} else if m.state.CompareAndSwap(waiting, taken) {
			group = append(group, m)
		} else {
			return // called off
		}
		// What waits for the next group goes before what comes after it.
		for _, key := range m.keys {
			touched[key] = true
		}
	}
	for _, m := range held {
		add(m)
	}
	for len(group) < maxGroup && len(later) < cap(s.queue) {
		if len(group) == 0 {
			m, open := <-s.queue
			if !open {
				return group, later
			}
			add(m)
			continue
		}
		select {
		case m, open := <-s.queue:
			if !open {
				return group, later
			}
			add(m)
		default:
			return group, later
		}
	}
	return group, later
}

// write makes one transaction of a group. When it fails, nothing of the group was acknowledged.
func (s *Store) write(group []*member) error {
	ctx, cancel := s.patience()
	defer cancel()
	start := time.Now()
	last, err := s.transact(ctx, group)
	if err == nil {
		err = s.engine.committed(last.seq, last.hash)
	}
	s.stats.group(len(group), time.Since(start), err)
	if err != nil {
		return fmt.Errorf("%w: %w", ca.ErrUnavailable, err)
	}
	return nil
}

// transact runs the transaction: what members ask, then the journal, the tables and the head. It returns the last record
// that was committed.
func (s *Store) transact(ctx context.Context, group []*member) (last *record, err error) {
	tx, err := s.engine.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			tx.rollback()
		}
	}()
	var head record
	var hash []byte
	asks := []*statement{{sql: s.engine.dialect().lockHead, dest: []any{&head.seq, &hash}}}
	for _, m := range group {
		if m.ask != nil {
			asks = append(asks, m.ask)
		}
	}
	if err := tx.run(ctx, asks); err != nil {
		return nil, err
	}
	if asks[0].rows != 1 || copy(head.hash[:], hash) != len(head.hash) {
		return nil, errNoHead
	}
	tells := s.settle(group, &head)
	if err := tx.run(ctx, tells); err != nil {
		return nil, err
	}
	for _, t := range tells {
		if t.rows == 0 {
			return nil, fmt.Errorf("%.40q changed nothing: the tables do not fit the journal, see verify", t.sql)
		}
	}
	start := time.Now()
	if err := tx.commit(ctx); err != nil {
		return nil, err
	}
	s.stats.commit(time.Since(start))
	return &head, nil
}

const (
	insertRecord = `INSERT INTO journal (seq, at, kind, body, prev, hash) VALUES ($1, $2, $3, $4, $5, $6)`
	insertSpan   = `INSERT INTO spans (kind, span, first_seq, last_seq) VALUES ($1, $2, $3, $4)
		ON CONFLICT (kind, span) DO UPDATE SET last_seq = excluded.last_seq`
	updateHead = `UPDATE head SET seq = $1, hash = $2, misses = misses + $3 WHERE one = 1`
)

// settle judges the members in order, chains their records to head, which it moves, and returns what is to be written.
func (s *Store) settle(group []*member, head *record) []*statement {
	var tells []*statement
	var spans spanSet
	var misses int64
	now := s.now().UnixMicro()
	for _, m := range group {
		m.verdict = m.settle()
		v := &m.verdict
		if v.miss {
			misses++
		}
		if v.record == nil {
			continue
		}
		r := v.record
		r.seq, r.at, r.prev = head.seq+1, now, head.hash
		r.hash = r.digest()
		tells = append(tells, r.insert())
		if v.rows != nil {
			tells = append(tells, v.rows(r.seq)...)
		}
		if v.spans != "" {
			spans.add(v.spans, span(v.when), r.seq)
		}
		head.seq, head.hash = r.seq, r.hash
	}
	tells = append(tells, spans.statements()...)
	if len(tells) > 0 || misses > 0 {
		tells = append(tells, &statement{sql: updateHead, args: []any{head.seq, head.hash[:], misses}})
	}
	return tells
}

// spanSet collects the spans of a group, so that each is written once.
type spanSet []spanRange

type spanRange struct {
	kind              string
	span, first, last int64
}

func (s *spanSet) add(kind string, span, seq int64) {
	for i := range *s {
		if r := &(*s)[i]; r.kind == kind && r.span == span {
			r.last = seq
			return
		}
	}
	*s = append(*s, spanRange{kind, span, seq, seq})
}

func (s *spanSet) statements() []*statement {
	out := make([]*statement, 0, len(*s))
	for _, r := range *s {
		out = append(out, &statement{sql: insertSpan, args: []any{r.kind, r.span, r.first, r.last}})
	}
	return out
}
