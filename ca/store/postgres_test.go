package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/writ-auth/writ/ca/store"
	"github.com/writ-auth/writ/internal/testkit"
)

func TestPostgres(t *testing.T) {
	t.Parallel()
	suite(t, postgresPlace)
}

// postgresPlace makes a new ledger in a schema of its own, on the server that all tests share.
func postgresPlace(t *testing.T) place {
	dsn := postgresDSN(t)
	return place{
		open: func(t *testing.T) *store.Store {
			s, err := store.OpenPostgres(t.Context(), store.PostgresConfig{DSN: dsn, Create: true, Now: clock})
			return opened(t, s, err)
		},
		tamper: func(t *testing.T, sql string) { psql(t, dsn+"&session_replication_role=replica", sql) },
		exec:   func(t *testing.T, sql string) error { return tryPSQL(t.Context(), dsn, sql) },
		bytes:  func(b []byte) string { return fmt.Sprintf(`'\x%x'`, b) },
		shared: true,
	}
}

// server is the PostgreSQL of this test run; it is started by the first test that needs it and ended by TestMain.
var server struct {
	*testkit.Postgres

	once   sync.Once
	err    error
	schema atomic.Int64
}

// postgresDSN makes a schema on the shared server.
func postgresDSN(t testing.TB) string {
	t.Helper()
	server.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		server.Postgres, server.err = testkit.StartPostgres(ctx, "max_connections=300", "shared_buffers=64MB")
	})
	if server.err != nil {
		t.Fatal(server.err)
	}
	schema := fmt.Sprintf("test_%d", server.schema.Add(1))
	psql(t, server.DSN, "CREATE SCHEMA "+schema)
	return server.DSN + "&search_path=" + schema
}

// psql runs one statement as somebody else.
func psql(t testing.TB, dsn, sql string, args ...any) {
	t.Helper()
	if err := tryPSQL(t.Context(), dsn, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func tryPSQL(ctx context.Context, dsn, sql string, args ...any) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql, args...)
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

func stopPostgres() {
	if server.Postgres != nil {
		server.Stop()
	}
}
