package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/writ-auth/writ/ca"
)

// ErrNone is wrapped when a ledger is to be opened that is not there, and none may be made.
var ErrNone = errors.New("there is no ledger")

var errNoHead = errors.New("the ledger has lost its head: restore it from a backup")

// Store is a [ca.Store]. It is made by [OpenSQLite] and [OpenPostgres] and must be closed.
type Store struct {
	engine  engine
	now     func() time.Time
	timeout time.Duration // of one group, 0 = none

	mu     sync.RWMutex // guards closed, and the queue against being closed while it is sent to
	closed bool
	queue  chan *member
	served chan struct{} // closed when the writer has ended

	closing sync.Once
	stats   counters
}

var _ ca.Store = (*Store)(nil)

// options are what both engines have in common.
type options struct {
	now     func() time.Time
	logger  *slog.Logger
	queue   int
	timeout time.Duration
}

func (o *options) fill() error {
	if o.now == nil {
		o.now = time.Now
	}
	if o.logger == nil {
		o.logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.queue == 0:
		o.queue = defaultQueue
	case o.queue < 0:
		return fmt.Errorf("queue of %d changes", o.queue)
	}
	return nil
}

// start takes an engine over, with a ledger that is ready, and starts its writer, which [Store.Close] waits for.
func start(e engine, o options) *Store {
	s := &Store{engine: e, now: o.now, timeout: o.timeout, queue: make(chan *member, o.queue), served: make(chan struct{})}
	go s.serve()
	return s
}

// Close writes what is queued, refuses what comes later and lets the database go. It may be called more than once.
func (s *Store) Close() error {
	var err error
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true
		close(s.queue)
		s.mu.Unlock()
		<-s.served
		err = s.engine.close()
	})
	return err
}

// patience bounds one group: other members wait behind it, so its callers' contexts do not count.
func (s *Store) patience() (context.Context, context.CancelFunc) {
	if s.timeout == 0 {
		return context.Background(), func() {}
	}
	return context.WithTimeout(context.Background(), s.timeout)
}

// query reads, and tells trouble with the database from everything else.
func (s *Store) query(ctx context.Context, sql string, args []any, row func(scan func(dest ...any) error) error) error {
	if err := s.engine.query(ctx, sql, args, row); err != nil {
		return fmt.Errorf("%w: %w", ca.ErrUnavailable, err)
	}
	return nil
}
