package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"modernc.org/sqlite" // registers the driver
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteEngine has one connection that writes and a few that read.
type sqliteEngine struct {
	files    *files
	writer   *sql.Conn
	writers  *sql.DB
	readers  *sql.DB
	prepared map[string]*sql.Stmt // of the writer
	mu       sync.Mutex           // guards asked
	asked    map[string]*sql.Stmt // of the readers: the questions that came first, maxAsked at most
	broken   error                // set by the writer when the file cannot be trusted any more
}

const (
	readConnections = 4
	maxAsked        = 64 // a store is asked fewer kinds of questions, unless somebody tries them all
)

// connectSQLite opens an existing file. WAL with synchronous=FULL syncs the log at each commit.
func connectSQLite(ctx context.Context, path string) (*sqliteEngine, error) {
	write := append(sqlitePragmas(), "journal_mode(WAL)", "synchronous(FULL)", "checkpoint_fullfsync(1)", "fullfsync(1)",
		"cache_size(-65536)", "wal_autocheckpoint(4000)", "journal_size_limit(67108864)")
	e := &sqliteEngine{prepared: make(map[string]*sql.Stmt)}
	var err error
	if e.writers, err = sql.Open("sqlite", sqliteURL(path, "rw", write)); err != nil {
		return nil, err
	}
	e.writers.SetMaxOpenConns(1)
	if e.writer, err = e.writers.Conn(ctx); err != nil {
		return nil, errors.Join(err, e.writers.Close())
	}
	read := append(sqlitePragmas(), "query_only(1)", "cache_size(-16384)")
	if e.readers, err = sql.Open("sqlite", sqliteURL(path, "ro", read)); err != nil {
		return nil, errors.Join(err, e.disconnect())
	}
	e.readers.SetMaxOpenConns(readConnections)
	e.readers.SetMaxIdleConns(readConnections)
	return e, nil
}

// sqlitePragmas are those of every connection: notice damage, trust nothing that the file says about functions.
func sqlitePragmas() []string {
	return []string{"busy_timeout(5000)", "cell_size_check(1)", "trusted_schema(0)", "temp_store(2)"}
}

// connectBackup opens a file that nobody writes, to read it. It leaves no trace beside it.
func connectBackup(path string) (*sqliteEngine, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	readers, err := sql.Open("sqlite", sqliteURL(path, "ro", append(sqlitePragmas(), "query_only(1)"))+"&immutable=1")
	if err != nil {
		return nil, err
	}
	return &sqliteEngine{readers: readers}, nil
}

func sqliteURL(path, mode string, pragmas []string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	q := url.Values{"mode": {mode}, "_pragma": pragmas}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// dollars turns the $1 of PostgreSQL into the ?1 of SQLite. No SQL of ours has a dollar otherwise.
func dollars(sql string) string { return strings.ReplaceAll(sql, "$", "?") }

// dialect locks nothing: a write transaction has the whole file.
func (e *sqliteEngine) dialect() dialect {
	return dialect{migrations: "sqlite", lockHead: `SELECT seq, hash FROM head`, lockSchema: `SELECT 1`}
}

func (e *sqliteEngine) begin(ctx context.Context) (transaction, error) {
	if e.broken != nil {
		return nil, e.broken
	}
	tx := &sqliteTx{engine: e}
	if err := tx.exec(ctx, &statement{sql: "BEGIN IMMEDIATE"}); err != nil {
		tx.rollback() // in case an earlier one could not be
		return nil, err
	}
	return tx, nil
}

func (e *sqliteEngine) query(ctx context.Context, sql string, args []any, row func(func(...any) error) error) error {
	prepared, err := e.question(ctx, sql)
	if err != nil {
		return err
	}
	rows, err := e.ask(ctx, prepared, sql, args)
	if err != nil {
		return err
	}
	return eachRow(rows, row)
}

// question returns the prepared form of a query, which takes longer to make than to answer; nil when there are many.
func (e *sqliteEngine) question(ctx context.Context, query string) (*sql.Stmt, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.asked[query]; p != nil || len(e.asked) >= maxAsked {
		return p, nil
	}
	p, err := e.readers.PrepareContext(ctx, dollars(query))
	if err != nil {
		return nil, err
	}
	if e.asked == nil {
		e.asked = make(map[string]*sql.Stmt)
	}
	e.asked[query] = p
	return p, nil
}

func (e *sqliteEngine) ask(ctx context.Context, prepared *sql.Stmt, query string, args []any) (*sql.Rows, error) {
	if prepared != nil {
		return prepared.QueryContext(ctx, args...)
	}
	return e.readers.QueryContext(ctx, dollars(query), args...)
}

func eachRow(rows *sql.Rows, row func(func(...any) error) error) error {
	defer func() { _ = rows.Close() }() // Err has what matters
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (e *sqliteEngine) snapshot(ctx context.Context, read func(reader) error) (err error) {
	conn, err := e.readers.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	view := &sqliteView{tx: tx, prepared: make(map[string]*sql.Stmt)}
	defer func() { _ = tx.Rollback() }() // nothing was written
	return read(view)
}

// sqliteView reads in one transaction. Its statements go with it.
type sqliteView struct {
	tx       *sql.Tx
	prepared map[string]*sql.Stmt
}

func (v *sqliteView) query(ctx context.Context, sql string, args []any, row func(func(...any) error) error) error {
	p := v.prepared[sql]
	if p == nil {
		var err error
		if p, err = v.tx.PrepareContext(ctx, dollars(sql)); err != nil {
			return err
		}
		v.prepared[sql] = p
	}
	rows, err := p.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	return eachRow(rows, row)
}

func (e *sqliteEngine) integrity(ctx context.Context, in reader) error {
	if err := checkSchema(ctx, in); err != nil {
		return err
	}
	return in.query(ctx, `PRAGMA integrity_check(1)`, nil, func(scan func(...any) error) error {
		var result string
		if err := scan(&result); err != nil || result == "ok" {
			return err
		}
		return fmt.Errorf("the file is damaged: %s", result)
	})
}

func (e *sqliteEngine) copyTo(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", sqliteURL(e.files.path, "ro", sqlitePragmas()))
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `VACUUM INTO ?`, path)
	return errors.Join(err, db.Close())
}

func (e *sqliteEngine) committed(seq int64, hash sum) error { return e.files.remember(seq, hash) }

// disconnect closes the connections; the last one to go writes the log back into the file.
func (e *sqliteEngine) disconnect() error {
	var errs []error
	for _, s := range e.asked {
		errs = append(errs, s.Close())
	}
	if e.readers != nil {
		errs = append(errs, e.readers.Close())
	}
	for _, s := range e.prepared {
		errs = append(errs, s.Close())
	}
	if e.writers != nil {
		errs = append(errs, e.writer.Close(), e.writers.Close())
	}
	return errors.Join(errs...)
}

func (e *sqliteEngine) close() error { return errors.Join(e.disconnect(), e.files.close()) }

// sqliteTx runs on the writer's connection.
type sqliteTx struct {
	engine *sqliteEngine
	done   bool
}

func (t *sqliteTx) run(ctx context.Context, statements []*statement) error {
	for _, s := range statements {
		if err := t.exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (t *sqliteTx) load(ctx context.Context, to table, rows [][]any) error {
	sql := `INSERT INTO ` + to.name + ` (` + strings.Join(to.columns, ", ") + `) VALUES (?` + strings.Repeat(", ?", len(to.columns)-1) + `)`
	for _, row := range rows {
		if err := t.exec(ctx, &statement{sql: sql, args: row}); err != nil {
			return err
		}
	}
	return nil
}

func (t *sqliteTx) commit(ctx context.Context) error {
	if err := t.exec(ctx, &statement{sql: "COMMIT"}); err != nil {
		return err
	}
	t.done = true
	return nil
}

func (t *sqliteTx) rollback() {
	if t.done {
		return
	}
	t.done = true
	// SQLite may have rolled back already, and says so with an error; if it could not, the next begin tries again.
	_ = t.exec(context.Background(), &statement{sql: "ROLLBACK"})
}

func (t *sqliteTx) exec(ctx context.Context, s *statement) error {
	err := t.engine.exec(ctx, s)
	if damaged(err) && t.engine.broken == nil {
		t.engine.broken = fmt.Errorf("the ledger cannot be trusted any more, restart and verify it: %w", err)
	}
	return err
}

func (e *sqliteEngine) exec(ctx context.Context, s *statement) error {
	if s.many {
		_, err := e.writer.ExecContext(ctx, s.sql)
		return err
	}
	p := e.prepared[s.sql]
	if p == nil {
		var err error
		if p, err = e.writer.PrepareContext(ctx, dollars(s.sql)); err != nil {
			return err
		}
		e.prepared[s.sql] = p
	}
	if s.dest != nil {
		err := p.QueryRowContext(ctx, s.args...).Scan(s.dest...)
		switch {
		case err == nil:
			s.rows = 1
		case errors.Is(err, sql.ErrNoRows):
			err = nil
		}
		return err
	}
	result, err := p.ExecContext(ctx, s.args...)
	if err != nil {
		return err
	}
	s.rows, err = result.RowsAffected()
	return err
}

// damaged reports whether an error says that what is on disk may not be what SQLite believes. A sync that failed is of
// that kind: the kernel forgets what it could not write.
func damaged(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() {
	case sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC:
		return true
	}
	return e.Code()&0xff == sqlite3.SQLITE_CORRUPT || e.Code()&0xff == sqlite3.SQLITE_NOTADB
}
