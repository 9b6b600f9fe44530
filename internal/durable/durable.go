// Package durable writes files that survive a crash: after [WriteFile] returned nil the file has its new content, and
// before that it has its old, whole. There is nothing between.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces the content of a file. The directory must exist. What happens, in order: a new file beside it is
// opened (O_CREAT|O_EXCL), written and synced; it is renamed over the old one; the directory is synced, without which
// the rename itself could be lost.
func WriteFile(path string, content []byte, perm fs.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	err = fill(f, content, perm)
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	if err := SyncDir(dir); err != nil {
		return fmt.Errorf("write %s: %w", path, err) // the new content is there, but a crash may bring back the old
	}
	return nil
}

func fill(f *os.File, content []byte, perm fs.FileMode) error {
	_, err := f.Write(content)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// SyncDir makes what was created, renamed or removed in a directory survive a crash.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
