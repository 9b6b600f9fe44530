package attest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/writ-auth/writ/jwt"
)

const (
	maxKeyFile   = 1 << 20
	keyFileEvery = time.Second // at most so often is the file looked at
)

// keyFile is a [jwt.Source] that reads its keys again when the file changes. A file that went bad leaves the last good
// keys in force, and is reported once for each change.
type keyFile struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	keys   *jwt.KeySet
	read   fs.FileInfo // of the file that was read last, good or bad
	failed string      // what was reported last
	looked time.Time
}

func newKeyFile(path string, log *slog.Logger) (*keyFile, error) {
	f := &keyFile{path: path, log: log}
	if err := f.load(); err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	f.looked = time.Now()
	return f, nil
}

// Keys implements [jwt.Source].
func (f *keyFile) Keys() *jwt.KeySet {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) >= keyFileEvery {
		f.look()
	}
	return f.keys
}

// Refetch implements [jwt.Source]: a token names a key that may have just been written.
func (f *keyFile) Refetch(context.Context) *jwt.KeySet {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.look()
	return f.keys
}

// look reads the file if it changed. The caller holds mu.
func (f *keyFile) look() {
	f.looked = time.Now()
	now, err := os.Stat(f.path)
	if err == nil && f.read != nil && os.SameFile(now, f.read) && now.ModTime().Equal(f.read.ModTime()) && now.Size() == f.read.Size() {
		return
	}
	if err == nil {
		err = f.load()
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case text != "" && text != f.failed:
		f.log.Error("key file not read again; the last good keys stay", "path", f.path, "error", text)
	case text == "":
		f.log.Info("key file read again", "path", f.path, "keys", f.keys.Len(), "generation", f.keys.Generation())
	}
	f.failed = text
}

// load reads the file. The caller holds mu, or is the only one.
func (f *keyFile) load() error {
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return err
	}
	keys, err := jwt.ParseKeySet(data)
	f.read = info
	if err != nil {
		return err
	}
	f.keys = keys
	return nil
}
