package store_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/store"
)

func TestOpenPostgresRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T, dsn string) string
		want  string
	}{
		{"no DSN that can be read", func(_ *testing.T, dsn string) string { return "postgres://user:secret@[/" }, "the DSN cannot be read"},
		{"no server", func(t *testing.T, _ string) string {
			return "postgres:///x?connect_timeout=1&host=" + t.TempDir()
		}, "no such file"},
		{"no commit is synced", func(_ *testing.T, dsn string) string { return dsn + "&synchronous_commit=off" }, "synchronous_commit = off"},
		{"from the future", func(t *testing.T, dsn string) string {
			psql(t, dsn, "INSERT INTO ledger_schema VALUES (7, 0)")
			return dsn
		}, "tables are of version 7"},
		{"last record gone", func(t *testing.T, dsn string) string {
			psql(t, dsn+"&session_replication_role=replica", "DELETE FROM journal WHERE seq = 5")
			return dsn
		}, "record 5 of the journal is missing"},
		{"last record changed", func(t *testing.T, dsn string) string {
			psql(t, dsn+"&session_replication_role=replica", "UPDATE journal SET at = 0 WHERE seq = 5")
			return dsn
		}, "record 5 of the journal does not match its hash"},
		{"head gone", func(t *testing.T, dsn string) string {
			psql(t, dsn, "DELETE FROM head")
			return dsn
		}, "lost its head"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dsn := postgresDSN(t)
			s, err := store.OpenPostgres(t.Context(), store.PostgresConfig{DSN: dsn, Create: true})
			must(t, err)
			issue(t, s, 0, 2)
			must(t, s.Close())
			s, err = store.OpenPostgres(t.Context(), store.PostgresConfig{DSN: test.spoil(t, dsn), Create: true})
			if err == nil || !strings.Contains(err.Error(), test.want) || s != nil {
				t.Errorf("%v, want %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is in: %v", err)
			}
		})
	}
	dsn := postgresDSN(t)
	if s, err := store.OpenPostgres(t.Context(), store.PostgresConfig{DSN: dsn}); err == nil || !strings.Contains(err.Error(), "there is no ledger") || s != nil {
		t.Errorf("without create: %v", err)
	}
}

// TestCreateAtOnce: several authorities that start together make one ledger.
func TestCreateAtOnce(t *testing.T) {
	t.Parallel()
	dsn := postgresDSN(t)
	must(t, atOnce(8, func(i int) error {
		s, err := store.OpenPostgres(t.Context(), store.PostgresConfig{DSN: dsn, Create: true})
		if err != nil {
			return err
		}
		return errors.Join(s.Begin(t.Context(), intentOf(i)), s.Close())
	})...)
	s, err := store.OpenPostgres(t.Context(), store.PostgresConfig{DSN: dsn})
	verify(t, opened(t, s, err), 9)
}

// TestHeadLocked: an authority that hangs in a transaction stops the others only until they run out of patience.
func TestHeadLocked(t *testing.T) {
	t.Parallel()
	dsn := postgresDSN(t)
	s, err := store.OpenPostgres(t.Context(), store.PostgresConfig{DSN: dsn, Create: true, Timeout: 200 * time.Millisecond})
	opened(t, s, err)
	conn, err := pgx.Connect(t.Context(), dsn)
	must(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), "BEGIN; SELECT * FROM head FOR UPDATE")
	must(t, err)
	if err := s.Begin(t.Context(), intentOf(0)); !errors.Is(err, ca.ErrUnavailable) {
		t.Errorf("head locked: %v", err)
	}
	if _, _, err := s.Find(t.Context(), ca.Query{}); err != nil {
		t.Errorf("reading beside a lock: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Begin(ctx, intentOf(1)); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ca.ErrUnavailable) {
		t.Errorf("caller without patience: %v", err)
	}
	_, err = conn.Exec(t.Context(), "ROLLBACK")
	must(t, err, s.Begin(t.Context(), intentOf(2)))
	if _, err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestQueueFull: more than may wait are refused at once, those that wait are written, and who gives up is not.
func TestQueueFull(t *testing.T) {
	t.Parallel()
	dsn := postgresDSN(t)
	s, err := store.OpenPostgres(t.Context(), store.PostgresConfig{DSN: dsn, Create: true, Queue: 4})
	opened(t, s, err)
	conn, err := pgx.Connect(t.Context(), dsn)
	must(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), "BEGIN; SELECT * FROM head FOR UPDATE")
	must(t, err)

	first := make(chan error, 1)
	go func() { first <- s.Begin(t.Context(), intentOf(0)) }()
	for s.Stats().Queued > 0 || !waits(t, dsn) {
		<-time.After(time.Millisecond)
	}
	waiting := make(chan error, 3)
	for n := 1; n <= 3; n++ {
		go func() { waiting <- s.Begin(t.Context(), intentOf(n)) }()
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { gone <- s.Begin(ctx, intentOf(4)) }()
	for s.Stats().Queued < 4 {
		<-time.After(time.Millisecond)
	}
	if err := s.Begin(t.Context(), intentOf(5)); !errors.Is(err, ca.ErrUnavailable) || !errors.Is(err, ca.ErrOverloaded) {
		t.Errorf("queue full: %v", err)
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "nothing was written") {
		t.Errorf("gave up: %v", err)
	}
	_, err = conn.Exec(t.Context(), "ROLLBACK")
	must(t, err, <-first, <-waiting, <-waiting, <-waiting)
	verify(t, s, 1+4)
	if st := s.Stats(); st.Refused != 1 || st.QueueLimit != 4 || st.MaxGroup != 3 || st.Groups != 2 || st.Changes != 4 {
		t.Errorf("%+v", st)
	}
}

// waits reports whether a session waits for a lock in the schema of dsn.
func waits(t *testing.T, dsn string) bool {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	must(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	var n int
	must(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN (
		SELECT pid FROM pg_locks WHERE relation = 'head'::regclass)`).Scan(&n))
	return n > 0
}

// TestConnectionsCut: connections that the server has cut are made anew, nobody notices who was not at it, and nothing
// acknowledged is lost.
func TestConnectionsCut(t *testing.T) {
	t.Parallel()
	dsn := postgresDSN(t) + "&application_name=cut"
	s, err := store.OpenPostgres(t.Context(), store.PostgresConfig{DSN: dsn, Create: true})
	opened(t, s, err)
	cut := func() {
		t.Helper()
		psql(t, server.DSN, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cut'`)
	}
	for n := range 5 { // between two calls
		must(t, errors.Join(atOnce(4, func(int) error { // several connections
			_, _, err := s.Find(t.Context(), ca.Query{})
			return err
		})...))
		cut()
		issue(t, s, n, n+1)
		cut()
		if got := len(findAll(t, s, ca.Query{})); got != n+1 {
			t.Errorf("%d certificates, want %d", got, n+1)
		}
		cut()
		verify(t, s, int64(1+2*(n+1)))
	}

	var acknowledged atomic.Int64 // in the middle of calls
	stop := make(chan struct{})
	done := make(chan error)
	go func() {
		done <- errors.Join(atOnce(8, func(i int) error {
			for n := 100 * (i + 1); ; n++ {
				select {
				case <-stop:
					return nil
				default:
				}
				switch err := s.Begin(t.Context(), intentOf(n)); {
				case err == nil:
					acknowledged.Add(1)
				case !errors.Is(err, ca.ErrUnavailable):
					return err
				}
			}
		})...)
	}()
	for range 10 {
		cut()
	}
	close(stop)
	must(t, <-done)
	if got := len(findAll(t, s, ca.Query{Limit: 1000})); int64(got) < 5+acknowledged.Load() {
		t.Errorf("%d certificates, %d were acknowledged", got, 5+acknowledged.Load())
	}
	if _, err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRestorePostgresRefuses(t *testing.T) {
	t.Parallel()
	p := sqlitePlace(t).open(t)
	backup := filepath.Join(t.TempDir(), "backup")
	must(t, p.Backup(t.Context(), backup))
	dsn := postgresDSN(t)
	s, err := store.OpenPostgres(t.Context(), store.PostgresConfig{DSN: dsn, Create: true})
	opened(t, s, err)
	issue(t, s, 0, 3)
	if err := store.RestorePostgres(t.Context(), backup, store.PostgresConfig{DSN: dsn}); err == nil || !strings.Contains(err.Error(), "there is a ledger already") {
		t.Errorf("over a ledger: %v", err)
	}
	verify(t, s, 7)
}
