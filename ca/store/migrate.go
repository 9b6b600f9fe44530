package store

import (
	"context"
	"crypto/rand"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"
)

//go:embed migrations
var migrationFiles embed.FS

// migration brings the tables from one version to the next.
type migration struct {
	version int64
	name    string
	sql     string
}

// migrations of an engine, in order. They are numbered from 1 without a gap and never change once released.
func migrations(engine string) ([]migration, error) {
	dir := path.Join("migrations", engine)
	files, err := fs.ReadDir(migrationFiles, dir)
	if err != nil {
		return nil, err
	}
	out := make([]migration, 0, len(files))
	for i, f := range files {
		number, _, _ := strings.Cut(f.Name(), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil || version != int64(i+1) {
			return nil, fmt.Errorf("migration %s: want number %04d", f.Name(), i+1)
		}
		sql, err := fs.ReadFile(migrationFiles, path.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		out = append(out, migration{version, f.Name(), string(sql)})
	}
	return out, nil
}

const (
	createVersions = `CREATE TABLE IF NOT EXISTS ledger_schema (version BIGINT PRIMARY KEY, at BIGINT NOT NULL)`
	insertVersion  = `INSERT INTO ledger_schema (version, at) VALUES ($1, $2)`
	selectVersion  = `SELECT COALESCE(max(version), 0) FROM ledger_schema`
)

// migrate brings the tables up to date, each step in a transaction of its own, and begins the journal of a new ledger.
// A ledger that a newer writ has written is refused.
func migrate(ctx context.Context, e engine, now time.Time) error {
	steps, err := migrations(e.dialect().migrations)
	if err != nil {
		return err
	}
	for {
		done, err := migrateOnce(ctx, e, steps, now)
		if err != nil || done {
			return err
		}
	}
}

// migrateOnce takes one step, in one transaction together with the note that it was taken.
func migrateOnce(ctx context.Context, e engine, steps []migration, now time.Time) (done bool, err error) {
	tx, err := e.begin(ctx)
	if err != nil {
		return false, err
	}
	defer tx.rollback() // of no effect after a commit
	var have int64
	// One by one: a statement cannot be prepared before the table that it names is there.
	for _, s := range []*statement{{sql: e.dialect().lockSchema}, {sql: createVersions}, {sql: selectVersion, dest: []any{&have}}} {
		if err := tx.run(ctx, []*statement{s}); err != nil {
			return false, err
		}
	}
	switch {
	case have == int64(len(steps)):
		return true, nil
	case have > int64(len(steps)):
		return false, tooNew(have, len(steps))
	}
	step := steps[have]
	if err := tx.run(ctx, []*statement{{sql: step.sql, many: true}}); err != nil {
		return false, fmt.Errorf("migration %s: %w", step.name, err)
	}
	todo := []*statement{{sql: insertVersion, args: []any{step.version, now.UnixMicro()}}}
	if step.version == 1 {
		first, err := newRecord(kindCreated, createdBody{Store: rand.Text()})
		if err != nil {
			return false, err
		}
		first.seq, first.at = 1, now.UnixMicro()
		first.hash = first.digest()
		todo = append(todo, first.insert(), first.becomeHead())
	}
	if err := tx.run(ctx, todo); err != nil {
		return false, fmt.Errorf("migration %s: %w", step.name, err)
	}
	return false, tx.commit(ctx)
}

func tooNew(version int64, known int) error {
	return fmt.Errorf("its tables are of version %d, this writ knows them up to %d: use the writ that wrote it, or a newer one", version, known)
}

// insert writes the record.
func (r *record) insert() *statement {
	return &statement{sql: insertRecord, args: []any{r.seq, r.at, r.kind, r.body, r.prev[:], r.hash[:]}}
}

// becomeHead moves the head of the journal to the record.
func (r *record) becomeHead() *statement {
	return &statement{sql: updateHead, args: []any{r.seq, r.hash[:], int64(0)}}
}

// tail is how many of the last records are checked whenever a ledger is opened. All of them is what Verify is for.
const tail = 1000

// checkTail reads the head and the last records of the journal and holds them against each other.
func checkTail(ctx context.Context, e reader) (head record, err error) {
	head, err = readHead(ctx, e)
	if err != nil {
		return head, err
	}
	w := walk{seq: max(head.seq-tail, 0)}
	if w.seq > 0 {
		if err := w.resume(ctx, e); err != nil {
			return head, err
		}
	}
	for w.seq < head.seq {
		if _, err := w.page(ctx, e, head.seq); err != nil {
			return head, err
		}
	}
	if w.hash != head.hash {
		return head, fmt.Errorf("record %d of the journal is not the one that its head names", head.seq)
	}
	return head, nil
}

func readHead(ctx context.Context, e reader) (record, error) {
	var head record
	var hash []byte
	err := e.query(ctx, `SELECT seq, hash FROM head`, nil, func(scan func(...any) error) error { return scan(&head.seq, &hash) })
	if err == nil && copy(head.hash[:], hash) != len(head.hash) {
		err = errNoHead
	}
	return head, err
}
