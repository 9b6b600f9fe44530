package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// files are the files of a SQLite ledger and the lock that keeps other processes out.
//
// The lock file also remembers the last record that was acknowledged. It is written after each commit and not synced,
// so it survives the death of the process, and after a power cut it names that record or an earlier one. A ledger
// that ends before it has lost something.
type files struct {
	path string
	lock *os.File
}

// openFiles takes the lock.
func openFiles(path string, create bool) (*files, error) {
	if path == "" || strings.ContainsRune(path, 0) {
		return nil, fmt.Errorf("path %q is not one of a file", path)
	}
	dir := filepath.Dir(path)
	if create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if err := private(dir, 0o022); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", ErrNone, err)
		}
		return nil, err
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) && !create {
		return nil, fmt.Errorf("%w: if there was one, restore it from a backup; a new one is made only on demand", ErrNone)
	}
	lock, err := os.OpenFile(path+"-lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("its directory has to be writable: %w", err)
	}
	if err := exclusive(lock); err != nil {
		return nil, errors.Join(fmt.Errorf("another authority has this state open: %w", err), lock.Close())
	}
	f := &files{path: path, lock: lock}
	for _, suffix := range []string{"", "-wal", "-shm", "-lock"} {
		if err := private(path+suffix, 0o077); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, f.close())
		}
	}
	return f, nil
}

// private refuses a file or directory on which others have one of the permissions in mask.
func private(path string, mask fs.FileMode) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if excess := info.Mode().Perm() & mask; excess != 0 {
		return fmt.Errorf("%s has mode %#o, others must not have %#o of it: chmod it", path, info.Mode().Perm(), excess)
	}
	return nil
}

// missing reports whether a ledger has to be made. It refuses when there are traces of one that was.
func (f *files) missing(create bool) (bool, error) {
	info, err := os.Stat(f.path)
	switch {
	case err == nil && info.Size() == 0:
		return false, errors.New("the file is empty: restore it from a backup")
	case err == nil && !info.Mode().IsRegular():
		return false, errors.New("it is no regular file")
	case err == nil:
		return false, writable(f.path)
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	case !create:
		return false, ErrNone
	}
	if _, err := os.Stat(f.path + "-wal"); err == nil {
		return false, errors.New("it is gone, but its write-ahead log (-wal) is there: restore it from a backup")
	}
	if seq, _, err := f.remembered(); err != nil || seq > 0 {
		return false, errors.Join(err, fmt.Errorf("it is gone, but its lock file (-lock) remembers %d records: restore it from a "+
			"backup; remove the lock file only if everything that was issued may be forgotten", seq))
	}
	return true, nil
}

// writable refuses a file that SQLite would silently open to read only. It must not run while SQLite has the file open:
// closing a file lets go of all the locks that a process has on it.
func writable(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return file.Close()
}

// fresh makes an empty file that nobody else can read, in place of what an earlier attempt has left.
func fresh(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return file.Close()
}

// install syncs a complete file and gives it its name.
func install(temp, path string) error {
	if err := syncPath(temp); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}

func syncPath(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// remember notes the last record that was acknowledged.
func (f *files) remember(seq int64, hash sum) error {
	if _, err := f.lock.WriteAt(fmt.Appendf(nil, "%020d %x\n", seq, hash), 0); err != nil {
		return fmt.Errorf("remember record %d: %w", seq, err)
	}
	return nil
}

// remembered returns what remember has noted; zeros when there is no note.
func (f *files) remembered() (seq int64, hash sum, err error) {
	b := make([]byte, 256)
	n, err := f.lock.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, hash, err
	}
	if text := strings.Trim(string(b[:n]), "\x00"); text != "" {
		var digits string
		if _, err := fmt.Sscanf(text, "%d %s\n", &seq, &digits); err != nil {
			return 0, hash, fmt.Errorf("lock file (-lock) is damaged: %w", err)
		}
		if err := hash.UnmarshalText([]byte(digits)); err != nil {
			return 0, hash, fmt.Errorf("lock file (-lock) is damaged: %w", err)
		}
	}
	return seq, hash, nil
}

// compare holds the ledger against the record that was acknowledged last.
func (f *files) compare(ctx context.Context, e reader, head record) error {
	seq, hash, err := f.remembered()
	if err != nil {
		return err
	}
	if seq > head.seq {
		return fmt.Errorf("it ends with record %d, but record %d was acknowledged: an older copy is in place, or its write-ahead log "+
			"(-wal) is lost or damaged; restore the latest backup", head.seq, seq)
	}
	if seq > 0 {
		w := walk{seq: seq}
		if err := w.resume(ctx, e); err != nil {
			return err
		}
		if w.hash != hash {
			return fmt.Errorf("its record %d is not the one that was acknowledged: it is another ledger; restore the right one", seq)
		}
	}
	return f.remember(head.seq, head.hash)
}

// close lets go of the lock by name: a child that was just forked has the file open until it runs its program.
func (f *files) close() error { return errors.Join(release(f.lock), f.lock.Close()) }
