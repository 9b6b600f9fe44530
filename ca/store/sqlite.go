package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// SQLiteConfig says where a ledger is. The zero value of everything but Path is usable.
type SQLiteConfig struct {
	// Path of the ledger, such as /var/lib/writ/ledger.db. Beside it are its write-ahead log (-wal, -shm) while it is
	// open, and its lock (-lock), which also remembers the last record that was acknowledged.
	Path string
	// Create makes a new ledger, and its directory, if there is none and no trace of one. Without it a ledger that is
	// missing is an error.
	Create bool
	// Queue is how many changes may wait, default 4096; more are refused.
	Queue int
	// Now is the clock of the journal, default time.Now.
	Now func() time.Time
	// Logger is told about creation and migration, default nobody.
	Logger *slog.Logger
}

// OpenSQLite opens a ledger in a file, for this process alone. Files are 0600 and refused if others may read or write
// them. The journal's end is checked; all of it is what [Store.Verify] is for.
func OpenSQLite(ctx context.Context, c SQLiteConfig) (*Store, error) {
	o := options{now: c.Now, logger: c.Logger, queue: c.Queue}
	if err := o.fill(); err != nil {
		return nil, err
	}
	f, err := openFiles(c.Path, c.Create)
	if err != nil {
		return nil, fmt.Errorf("ledger %s: %w", c.Path, err)
	}
	e, err := openSQLite(ctx, f, c.Create, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ledger %s: %w", c.Path, err), f.close())
	}
	return start(e, o), nil
}

// openSQLite makes the ledger if it has to, brings it up to date and checks what can be checked quickly.
func openSQLite(ctx context.Context, f *files, create bool, o options) (*sqliteEngine, error) {
	missing, err := f.missing(create)
	if err != nil {
		return nil, err
	}
	if missing {
		if err := createSQLite(ctx, f, o.now()); err != nil {
			return nil, err
		}
		o.logger.InfoContext(ctx, "ledger created", "path", f.path)
	}
	if err := recognize(ctx, f.path); err != nil {
		return nil, err
	}
	e, err := connectSQLite(ctx, f.path)
	if err != nil {
		return nil, err
	}
	if err := e.check(ctx, f, o); err != nil {
		return nil, errors.Join(err, e.disconnect())
	}
	e.files = f
	return e, nil
}

// createSQLite makes a ledger under another name and puts it in place whole, so that an empty file is never one that
// is about to become a ledger.
func createSQLite(ctx context.Context, f *files, now time.Time) error {
	temp := f.path + "-new"
	if err := fresh(temp); err != nil {
		return err
	}
	e, err := connectSQLite(ctx, temp)
	if err != nil {
		return err
	}
	if err := errors.Join(migrate(ctx, e, now), e.disconnect()); err != nil {
		return err
	}
	return install(temp, f.path)
}

// recognize refuses, without touching it, a database that is not a ledger.
func recognize(ctx context.Context, path string) error {
	readers, err := sql.Open("sqlite", sqliteURL(path, "ro", append(sqlitePragmas(), "query_only(1)")))
	if err != nil {
		return err
	}
	e := &sqliteEngine{readers: readers}
	return errors.Join(isLedger(ctx, e), e.disconnect())
}

func isLedger(ctx context.Context, in reader) error {
	var tables int64
	err := in.query(ctx, `SELECT count(*) FROM sqlite_schema WHERE name = 'ledger_schema'`, nil, func(scan func(...any) error) error {
		return scan(&tables)
	})
	if err == nil && tables == 0 {
		err = errors.New("it is a database, but not a ledger of writ")
	}
	return err
}

// check brings the tables up to date and compares them with what they have to be, and the end of the journal with the
// last record that was acknowledged.
func (e *sqliteEngine) check(ctx context.Context, f *files, o options) error {
	if err := migrate(ctx, e, o.now()); err != nil {
		return err
	}
	if err := checkSchema(ctx, e); err != nil {
		return err
	}
	head, err := checkTail(ctx, e)
	if err != nil {
		return err
	}
	return f.compare(ctx, e, head)
}
