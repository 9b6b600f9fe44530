package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Backup writes the ledger as it is at one moment to a new file, while others write. Whatever the engine, the file is
// a SQLite ledger, 0600, that either engine is restored from. It is verified and synced before it gets its name.
func (s *Store) Backup(ctx context.Context, path string) error {
	if err := s.backup(ctx, path); err != nil {
		return fmt.Errorf("backup to %s: %w", path, err)
	}
	return nil
}

func (s *Store) backup(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(errors.New("there is something already: choose another name"), err)
	}
	partial := path + ".partial"
	if err := fresh(partial); err != nil {
		return err
	}
	err := s.engine.copyTo(ctx, partial)
	if err == nil {
		_, err = verifyBackup(ctx, partial)
	}
	if err == nil {
		err = install(partial, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(partial))
	}
	return nil
}

// VerifyBackup checks a backup in its file, without restoring it: the file, the whole chain, and every table against it,
// as [Store.Verify] does with a ledger in use. It returns what is in it; with an error, only how many records were found
// good. The file is opened to be read, nothing is written beside it, and nobody may write it meanwhile: a ledger that is
// open, or was not closed, is refused. What an older writ has backed up is accepted, what a newer one has is not.
func VerifyBackup(ctx context.Context, path string) (Contents, error) {
	found, err := verifyBackup(ctx, path)
	if err != nil {
		return found, fmt.Errorf("verify %s: %w", path, err)
	}
	return found, nil
}

func verifyBackup(ctx context.Context, path string) (found Contents, err error) {
	// What the log has is not in the file, and it would not be looked at.
	if _, err := os.Lstat(path + "-wal"); !errors.Is(err, fs.ErrNotExist) {
		return found, errors.Join(errors.New("a write-ahead log (-wal) is beside it, so it is a ledger that is in use, or was not closed: "+
			"verify it through its authority, or make a backup"), err)
	}
	e, err := connectBackup(path)
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, e.disconnect()) }()
	err = e.snapshot(ctx, func(r reader) error {
		if err := isLedger(ctx, r); err != nil {
			return err
		}
		if err := e.integrity(ctx, r); err != nil {
			return err
		}
		found, err = verify(ctx, r)
		return err
	})
	return found, err
}

// RestoreSQLite puts a backup in place of the ledger that into names, and notes in its journal that it did. The backup
// is verified first. A ledger that is there is refused, unless replace: it is then kept beside the new one. What was
// issued after the backup is forgotten, so serial numbers have to be random and CRL numbers have to follow the clock.
func RestoreSQLite(ctx context.Context, backup string, into SQLiteConfig, replace bool) error {
	o := options{now: into.Now, logger: into.Logger, queue: into.Queue}
	if err := o.fill(); err != nil {
		return err
	}
	f, err := openFiles(into.Path, true)
	if err != nil {
		return fmt.Errorf("restore %s: %w", into.Path, err)
	}
	if err := errors.Join(restoreSQLite(ctx, backup, f, replace, o), f.close()); err != nil {
		return fmt.Errorf("restore %s from %s: %w", into.Path, backup, err)
	}
	return nil
}

func restoreSQLite(ctx context.Context, backup string, f *files, replace bool, o options) error {
	_, err := os.Lstat(f.path)
	there := !errors.Is(err, fs.ErrNotExist)
	if there && !replace {
		return errors.New("there is a ledger already: say that it is to be replaced")
	}
	temp := f.path + "-new"
	e, err := prepareBackup(ctx, backup, temp, o)
	if err != nil {
		return err
	}
	head, err := readHead(ctx, e)
	if err := errors.Join(err, e.disconnect()); err != nil {
		return err
	}
	if there {
		if err := f.setAside(o.now()); err != nil {
			return err
		}
	}
	if err := install(temp, f.path); err != nil {
		return err
	}
	o.logger.InfoContext(ctx, "ledger restored", "path", f.path, "backup", backup, "records", head.seq)
	return f.remember(head.seq, head.hash)
}

// setAside gives the files of the ledger another name. A crash here leaves no ledger, and a lock file that says so.
func (f *files) setAside(now time.Time) error {
	aside := f.path + now.UTC().Format(".replaced-20060102T150405.000000Z")
	for _, suffix := range []string{"-shm", "-wal", ""} {
		if err := os.Rename(f.path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// prepareBackup verifies a backup and makes a copy of it at temp: brought up to date, with the record of its return.
func prepareBackup(ctx context.Context, backup, temp string, o options) (*sqliteEngine, error) {
	old, err := verifyBackup(ctx, backup)
	if err != nil {
		return nil, err
	}
	if err := fresh(temp); err != nil {
		return nil, err
	}
	if err := copyFile(temp, backup); err != nil {
		return nil, err
	}
	e, err := connectSQLite(ctx, temp)
	if err != nil {
		return nil, err
	}
	err = migrate(ctx, e, o.now())
	if err == nil {
		err = appendRestored(ctx, e, old.Head, o.now())
	}
	if err != nil {
		return nil, errors.Join(err, e.disconnect())
	}
	return e, nil
}

func appendRestored(ctx context.Context, e engine, backup sum, now time.Time) error {
	r, err := newRecord(kindRestored, restoredBody{Backup: backup})
	if err != nil {
		return err
	}
	head, err := readHead(ctx, e)
	if err != nil {
		return err
	}
	r.seq, r.at, r.prev = head.seq+1, now.UnixMicro(), head.hash
	r.hash = r.digest()
	tx, err := e.begin(ctx)
	if err != nil {
		return err
	}
	defer tx.rollback()
	if err := tx.run(ctx, []*statement{r.insert(), r.becomeHead()}); err != nil {
		return err
	}
	return tx.commit(ctx)
}

func copyFile(to, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := os.OpenFile(to, os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Sync(), dst.Close())
}

// RestorePostgres fills an empty schema from a backup, in one transaction, and notes that in the journal. The backup
// is verified first. A ledger that is there is refused: drop its schema if nobody needs it.
func RestorePostgres(ctx context.Context, backup string, into PostgresConfig) error {
	o := options{now: into.Now, logger: into.Logger, queue: into.Queue, timeout: into.Timeout}
	if err := o.fill(); err != nil {
		return err
	}
	if err := restorePostgres(ctx, backup, into, o); err != nil {
		return fmt.Errorf("restore PostgreSQL from %s: %w", backup, err)
	}
	return nil
}

func restorePostgres(ctx context.Context, backup string, into PostgresConfig, o options) (err error) {
	dir, err := os.MkdirTemp("", "writ-restore-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	from, err := prepareBackup(ctx, backup, filepath.Join(dir, "ledger.db"), o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.disconnect()) }()
	e, err := connectPostgres(ctx, into, max(o.timeout, time.Minute))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	if err := fill(ctx, e, from, o.now()); err != nil {
		return err
	}
	return e.snapshot(ctx, func(r reader) error {
		_, err := verify(ctx, r)
		return err
	})
}
