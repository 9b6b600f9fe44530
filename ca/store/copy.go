package store

import (
	"context"
	"errors"
	"strings"
	"time"
)

// table is a table that is copied from one engine to the other, with the columns of both.
type table struct {
	name    string
	columns []string
}

// copied are all tables but the version of the schema.
func copied() []table {
	list := func(name, columns string) table { return table{name, strings.Fields(columns)} }
	return []table{
		list("head", "one seq hash misses"),
		list("journal", "seq at kind body prev hash"),
		list("certificates", "seq serial id caller issuer key_hash not_after at state outcome"),
		list("events", "seq at"),
		list("spans", "kind span first_seq last_seq"),
		list("tokens", "hash seq body"),
		list("grants", "seq hash id"),
		list("revocations", "number serial id key_hash at until_at reason by_whom seq lifted"),
		list("state", "name version value sum seq"),
	}
}

// copyChunk is how many rows are in memory at once.
const copyChunk = 500

// fill makes the tables of an engine that has none, and fills them with those of another: one transaction.
func fill(ctx context.Context, to engine, from reader, now time.Time) error {
	steps, err := migrations(to.dialect().migrations)
	if err != nil {
		return err
	}
	tx, err := to.begin(ctx)
	if err != nil {
		return err
	}
	defer tx.rollback() // of no effect after a commit
	var have int64
	todo := []*statement{{sql: to.dialect().lockSchema}, {sql: createVersions}, {sql: selectVersion, dest: []any{&have}}}
	for _, m := range steps {
		todo = append(todo, &statement{sql: m.sql, many: true}, &statement{sql: insertVersion, args: []any{m.version, now.UnixMicro()}})
	}
	for _, s := range append(todo, &statement{sql: `DELETE FROM head`}) {
		if err := tx.run(ctx, []*statement{s}); err != nil {
			return err
		}
		if have > 0 {
			return errors.New("there is a ledger already: drop its schema if nobody needs it")
		}
	}
	for _, t := range copied() {
		if err := t.copy(ctx, tx, from); err != nil {
			return err
		}
	}
	return tx.commit(ctx)
}

// copy copies the rows of the table, a chunk at a time.
func (t table) copy(ctx context.Context, to transaction, from reader) error {
	var chunk [][]any
	flush := func() error {
		err := to.load(ctx, t, chunk)
		chunk = chunk[:0]
		return err
	}
	err := from.query(ctx, `SELECT `+strings.Join(t.columns, ", ")+` FROM `+t.name, nil, func(scan func(...any) error) error {
		row := make([]any, len(t.columns))
		dest := make([]any, len(row))
		for i := range row {
			dest[i] = &row[i]
		}
		if err := scan(dest...); err != nil {
			return err
		}
		for i, v := range row {
			if b, ok := v.([]byte); ok {
				row[i] = append([]byte{}, b...) // an empty value, which is not NULL
			}
		}
		chunk = append(chunk, row)
		if len(chunk) < copyChunk {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}
