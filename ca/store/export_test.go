package store

import (
	"context"

	"github.com/writ-auth/writ/ca"
)

// FindSQL is the SQL behind Find, ready for EXPLAIN; empty when there is nothing to ask.
func (s *Store) FindSQL(ctx context.Context, q ca.Query) (sql string, args []any, err error) {
	b, none, err := s.findQuery(ctx, q, defaultPage)
	if err != nil || none {
		return "", nil, err
	}
	return b.sql.String(), b.args, nil
}

// EventsSQL and the others are the SQL of what is asked often.
const (
	GrantsSQL       = selectGrants
	PresentTokenSQL = presentToken //nolint:gosec // SQL, no credential
	RevokedSQL      = selectRevoked
	StateSQL        = selectState
)

// ReadRows runs a query on a reading connection and returns each row's last column.
func (s *Store) ReadRows(ctx context.Context, sql string, columns int, args ...any) (out []string, err error) {
	err = s.query(ctx, sql, args, func(scan func(...any) error) error {
		var last string
		dest := make([]any, columns)
		for i := range dest {
			dest[i] = new(any)
		}
		dest[columns-1] = &last
		err := scan(dest...)
		out = append(out, last)
		return err
	})
	return out, err
}

// WriterPragma runs a PRAGMA on the connection that writes. The store must be idle.
func (s *Store) WriterPragma(ctx context.Context, pragma string) error {
	e, ok := s.engine.(*sqliteEngine)
	if !ok {
		panic("not SQLite")
	}
	_, err := e.writer.ExecContext(ctx, "PRAGMA "+pragma)
	return err
}

// ColumnsOf lists the tables that a backup copies, with their columns.
func ColumnsOf() map[string][]string {
	out := make(map[string][]string)
	for _, t := range copied() {
		out[t.name] = t.columns
	}
	return out
}
