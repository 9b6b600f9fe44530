package store

import "context"

// engine is a database: the difference between SQLite and PostgreSQL. SQL is written for both, with $1 for parameters.
// Only one goroutine writes; a reader sees what was committed before.
type engine interface {
	reader
	writer
	archive
	dialect() dialect
}

// reader answers queries.
type reader interface {
	// query calls row for each row. One at a time: row must not query.
	query(ctx context.Context, sql string, args []any, row func(scan func(dest ...any) error) error) error
}

// writer changes things.
type writer interface {
	// begin opens a write transaction.
	begin(ctx context.Context) (transaction, error)
	// committed is told what was acknowledged last.
	committed(seq int64, hash sum) error
	close() error
}

// archive looks at everything at once.
type archive interface {
	// snapshot gives read a view that does not change meanwhile.
	snapshot(ctx context.Context, read func(reader) error) error
	// integrity looks for damage that only the engine can see.
	integrity(ctx context.Context, in reader) error
	// copyTo writes all there is into an empty file, as a SQLite ledger.
	copyTo(ctx context.Context, path string) error
}

// dialect is the SQL that the engines do not share.
type dialect struct {
	migrations string // directory of them
	lockHead   string // reads the head of the journal and keeps every other writer from it
	lockSchema string // keeps every other process from migrating
}

// transaction is one write transaction.
type transaction interface {
	// run executes statements in order. PostgreSQL gets them all at once: one round trip.
	run(ctx context.Context, statements []*statement) error
	// load inserts rows of a table, columns in its order.
	load(ctx context.Context, t table, rows [][]any) error
	commit(ctx context.Context) error
	// rollback undoes what was not committed.
	rollback()
}

// statement is one SQL statement and what came of it.
type statement struct {
	sql  string
	many bool // the SQL is a script of many statements, without args; it runs alone
	args []any
	dest []any // when set, the statement returns at most one row, which goes here
	rows int64 // rows that were changed or returned
}
