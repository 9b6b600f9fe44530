package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// PostgresConfig says where a ledger is. The zero value of everything but DSN is usable.
type PostgresConfig struct {
	// DSN is a connection string, URL or keywords, as libpq reads it. The ledger's tables are in the first schema of
	// its search_path. The role has to own them.
	DSN string
	// Create makes a new ledger if there is none. Without it a ledger that is missing is an error.
	Create bool
	// Connections is how many connections read at once, default 4. One more writes.
	Connections int
	// Timeout bounds one transaction, default 10 s. Changes in it fail then, and it is unknown whether they were made.
	Timeout time.Duration
	// Queue is how many changes may wait, default 4096; more are refused.
	Queue int
	// Now is the clock of the journal, default time.Now.
	Now func() time.Time
	// Logger is told about creation and migration, default nobody.
	Logger *slog.Logger
}

const (
	defaultConnections = 4
	defaultTimeout     = 10 * time.Second
)

// OpenPostgres opens a ledger that several authorities share. Whoever appends locks the head of the journal, so that
// there is one chain. A server that does not sync its commits is refused.
func OpenPostgres(ctx context.Context, c PostgresConfig) (*Store, error) {
	o := options{now: c.Now, logger: c.Logger, queue: c.Queue, timeout: c.Timeout}
	if o.timeout <= 0 {
		o.timeout = defaultTimeout
	}
	if err := o.fill(); err != nil {
		return nil, err
	}
	e, err := connectPostgres(ctx, c, o.timeout)
	if err != nil {
		return nil, fmt.Errorf("ledger in PostgreSQL: %w", err)
	}
	if err := e.check(ctx, c.Create, o); err != nil {
		return nil, errors.Join(fmt.Errorf("ledger in PostgreSQL: %w", err), e.close())
	}
	return start(e, o), nil
}

// postgresEngine has one connection that writes, so that readers cannot keep it, and a few that read.
type postgresEngine struct {
	writer, pool *pgxpool.Pool
}

func connectPostgres(ctx context.Context, c PostgresConfig, timeout time.Duration) (*postgresEngine, error) {
	config, err := pgxpool.ParseConfig(c.DSN)
	if err != nil {
		return nil, errors.New("the DSN cannot be read") // err may show the password
	}
	config.MaxConns = defaultConnections
	if c.Connections > 0 {
		config.MaxConns = int32(min(c.Connections, 1000))
	}
	params := config.ConnConfig.RuntimeParams
	if params["application_name"] == "" {
		params["application_name"] = "writ"
	}
	// An authority that hangs in a transaction must not stop the others for longer than they wait for it.
	milliseconds := fmt.Sprint(timeout.Milliseconds())
	params["idle_in_transaction_session_timeout"] = milliseconds
	params["lock_timeout"] = milliseconds
	params["client_encoding"] = "UTF8"
	config.ConnConfig.ConnectTimeout = timeout
	alone := config.Copy()
	alone.MaxConns, alone.MinConns = 1, 0
	e := new(postgresEngine)
	if e.writer, err = pgxpool.NewWithConfig(ctx, alone); err != nil {
		return nil, err
	}
	if e.pool, err = pgxpool.NewWithConfig(ctx, config); err == nil {
		err = e.pool.Ping(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

// check brings the tables up to date, and looks at the settings that durability rests on and at the end of the journal.
func (e *postgresEngine) check(ctx context.Context, create bool, o options) error {
	for _, setting := range []string{"fsync", "full_page_writes", "synchronous_commit"} {
		var value string
		err := e.query(ctx, `SELECT current_setting($1)`, []any{setting}, func(scan func(...any) error) error { return scan(&value) })
		if err != nil {
			return err
		}
		if value == "off" || value == "local" {
			return fmt.Errorf("the server has %s = %s: a commit could be lost after it was acknowledged; set it to on", setting, value)
		}
	}
	var there bool
	err := e.query(ctx, `SELECT to_regclass('ledger_schema') IS NOT NULL`, nil, func(scan func(...any) error) error { return scan(&there) })
	if err != nil {
		return err
	}
	if !there {
		if !create {
			return fmt.Errorf("%w: if there was one, restore it from a backup; a new one is made only on demand", ErrNone)
		}
		o.logger.InfoContext(ctx, "ledger created", "database", e.pool.Config().ConnConfig.Database)
	}
	if err := migrate(ctx, e, o.now()); err != nil {
		return err
	}
	return e.snapshot(ctx, func(r reader) error {
		_, err := checkTail(ctx, r)
		return err
	})
}

// dialect locks the row of the head, and to migrate a number of its own, each until the transaction ends.
func (e *postgresEngine) dialect() dialect {
	return dialect{
		migrations: "postgres",
		lockHead:   `SELECT seq, hash FROM head FOR UPDATE`,
		lockSchema: `SELECT pg_advisory_xact_lock(8606216600190923849)`,
	}
}

func (e *postgresEngine) begin(ctx context.Context) (transaction, error) {
	return beginPostgres(ctx, e.writer, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
}

func beginPostgres(ctx context.Context, pool *pgxpool.Pool, options pgx.TxOptions) (*postgresTx, error) {
	t := new(postgresTx)
	return t, again(ctx, pool, func() (began bool, err error) {
		t.tx, err = pool.BeginTx(ctx, options)
		return false, err
	})
}

// again calls f until it works, fails after it has begun to have an effect, or has met every connection of a pool: one
// that the server has cut is found dead only when it is used.
func again(ctx context.Context, pool *pgxpool.Pool, f func() (began bool, err error)) error {
	for tries := pool.Config().MaxConns; ; tries-- {
		began, err := f()
		if err == nil || began || tries <= 0 || ctx.Err() != nil || !cut(err) {
			return err
		}
	}
}

// cut reports whether an error is about the connection: class 57P, the server ends it, or none of the server's at all.
func cut(err error) bool {
	var e *pgconn.PgError
	return !errors.As(err, &e) || strings.HasPrefix(e.Code, "57P")
}

func (e *postgresEngine) query(ctx context.Context, sql string, args []any, row func(func(...any) error) error) error {
	return again(ctx, e.pool, func() (began bool, err error) {
		err = postgresQuery(ctx, e.pool, sql, args, func(scan func(...any) error) error {
			began = true
			return row(scan)
		})
		return began, err
	})
}

// postgresQuerier is a pool or a transaction.
type postgresQuerier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func postgresQuery(ctx context.Context, from postgresQuerier, sql string, args []any, row func(func(...any) error) error) error {
	rows, err := from.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (e *postgresEngine) snapshot(ctx context.Context, read func(reader) error) error {
	t, err := beginPostgres(ctx, e.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer t.rollback() // nothing was written
	return read(postgresView{t.tx})
}

type postgresView struct{ tx pgx.Tx }

func (v postgresView) query(ctx context.Context, sql string, args []any, row func(func(...any) error) error) error {
	return postgresQuery(ctx, v.tx, sql, args, row)
}

// integrity is left to the server, which checks its pages itself when it was made with checksums.
func (e *postgresEngine) integrity(context.Context, reader) error { return nil }

// copyTo fills a new SQLite ledger from one snapshot.
func (e *postgresEngine) copyTo(ctx context.Context, path string) error {
	to, err := connectSQLite(ctx, path)
	if err != nil {
		return err
	}
	err = e.snapshot(ctx, func(r reader) error { return fill(ctx, to, r, time.Now()) })
	return errors.Join(err, to.disconnect())
}

func (e *postgresEngine) committed(int64, sum) error { return nil }

func (e *postgresEngine) close() error {
	e.writer.Close()
	if e.pool != nil {
		e.pool.Close()
	}
	return nil
}

type postgresTx struct{ tx pgx.Tx }

// run sends all statements at once and then reads all results.
func (t *postgresTx) run(ctx context.Context, statements []*statement) (err error) {
	if len(statements) == 1 && statements[0].many {
		_, err := t.tx.Exec(ctx, statements[0].sql)
		return err
	}
	var batch pgx.Batch
	for _, s := range statements {
		batch.Queue(s.sql, s.args...)
	}
	results := t.tx.SendBatch(ctx, &batch)
	defer func() {
		if closed := results.Close(); err == nil {
			err = closed
		}
	}()
	for _, s := range statements {
		if err := s.result(results); err != nil {
			return err
		}
	}
	return nil
}

func (s *statement) result(from pgx.BatchResults) error {
	if s.dest == nil {
		tag, err := from.Exec()
		s.rows = tag.RowsAffected()
		return err
	}
	err := from.QueryRow().Scan(s.dest...)
	switch {
	case err == nil:
		s.rows = 1
	case errors.Is(err, pgx.ErrNoRows):
		err = nil
	}
	return err
}

func (t *postgresTx) load(ctx context.Context, to table, rows [][]any) error {
	_, err := t.tx.CopyFrom(ctx, pgx.Identifier{to.name}, to.columns, pgx.CopyFromRows(rows))
	return err
}

func (t *postgresTx) commit(ctx context.Context) error { return t.tx.Commit(ctx) }

func (t *postgresTx) rollback() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = t.tx.Rollback(ctx) // a connection that cannot roll back is closed by the pool
}
