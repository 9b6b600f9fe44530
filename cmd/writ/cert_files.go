package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/writ-auth/writ/internal/durable"
)

// Files of a certificate.
const (
	keyFile    = "key.pem"
	certFile   = "cert.pem"
	bundleFile = "bundle.pem"
)

func certificateFiles() []string { return []string{keyFile, certFile, bundleFile} }

const (
	dataLink         = "..data"   // names the generation in force
	generationPrefix = "..issued" // of the names of generations
	// staleGeneration is the age from which on a generation that was never put in force is what a crash has left: one is
	// made and put in force within moments.
	staleGeneration = time.Minute
)

// certificateDir is a directory that holds a certificate, its key and the roots that came with them, as kubelet keeps a
// mounted secret: each renewal is a generation, a directory of its own; ..data is a symbolic link to the one in force; and
// key.pem, cert.pem and bundle.pem are links through it. A renewal is one rename of ..data, so that whoever resolves it
// once reads files that belong together, at every moment and after every crash (identity §10, row 3).
type certificateDir string

// exists reports whether there is a key already.
func (d certificateDir) exists() bool {
	_, err := os.Stat(filepath.Join(string(d), keyFile))
	return !errors.Is(err, fs.ErrNotExist)
}

// current is where to read files that belong together. The generation before stays until the next renewal, for those who
// are reading it.
func (d certificateDir) current() (string, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(string(d), dataLink))
	if errors.Is(err, fs.ErrNotExist) { // plain files, such as a copy has
		return string(d), nil
	}
	return dir, err
}

// write puts a certificate in force. When it returns nil, the files survive a crash; until then, those from before do.
func (d certificateDir) write(m *madeCertificate) error {
	if err := os.MkdirAll(string(d), 0o750); err != nil {
		return err
	}
	if err := d.adopt(); err != nil {
		return err
	}
	before, err := d.current()
	if err != nil {
		return err
	}
	content := map[string][]byte{keyFile: m.key, certFile: m.chain, bundleFile: m.bundle}
	if err := d.putInForce(content); err != nil {
		return err
	}
	return d.clean(filepath.Base(before))
}

// adopt takes over plain files, with which a copied directory comes: what each name shows stays the same at every moment.
func (d certificateDir) adopt() error {
	content, plain := map[string][]byte{}, false
	for _, name := range certificateFiles() {
		path := filepath.Join(string(d), name)
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		plain = plain || info.Mode().IsRegular()
		data, err := readBounded(path, maxPEMBytes)
		switch {
		case err == nil:
			content[name] = data
		case !errors.Is(err, fs.ErrNotExist): // a link that leads nowhere yet
			return err
		}
	}
	if !plain {
		return nil
	}
	return d.putInForce(content)
}

// putInForce makes a generation and has ..data name it, and every file a link through it.
func (d certificateDir) putInForce(content map[string][]byte) error {
	generation, err := d.generation(content)
	if err != nil {
		return err
	}
	linked := d.linked()
	if !linked { // names that show nothing yet: they appear with ..data, all at once
		if err := d.link(func(err error) bool { return errors.Is(err, fs.ErrNotExist) }); err != nil {
			return err
		}
	}
	if err := replaceLink(filepath.Base(generation), filepath.Join(string(d), dataLink)); err != nil {
		return err
	}
	if !linked { // plain files, whose content ..data now has
		if err := d.link(func(err error) bool { return err == nil }); err != nil {
			return err
		}
	}
	return durable.SyncDir(string(d))
}

// generation makes a directory with the files, synced, that has the permissions of the directory it is in.
func (d certificateDir) generation(content map[string][]byte) (string, error) {
	info, err := os.Stat(string(d))
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(string(d), generationPrefix+time.Now().UTC().Format("-20060102T150405Z-*"))
	if err != nil {
		return "", err
	}
	for name, data := range content {
		mode := fs.FileMode(0o644)
		if name == keyFile {
			mode = 0o600
		}
		if err := durable.WriteFile(filepath.Join(dir, name), data, mode); err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
	}
	return dir, errors.Join(os.Chmod(dir, info.Mode().Perm()), durable.SyncDir(string(d)))
}

// linked reports whether every name is a link through ..data.
func (d certificateDir) linked() bool {
	for _, name := range certificateFiles() {
		if to, err := os.Readlink(filepath.Join(string(d), name)); err != nil || to != filepath.Join(dataLink, name) {
			return false
		}
	}
	return true
}

// link makes the names links through ..data, of which what Lstat says is one to replace.
func (d certificateDir) link(which func(error) bool) error {
	for _, name := range certificateFiles() {
		path := filepath.Join(string(d), name)
		if _, err := os.Lstat(path); which(err) {
			if err := replaceLink(filepath.Join(dataLink, name), path); err != nil {
				return err
			}
		}
	}
	return nil
}

// replaceLink makes a symbolic link, in place of what may be there, in one step.
func replaceLink(to, path string) error {
	temporary := path + "_tmp"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a crash
		return err
	}
	if err := os.Symlink(to, temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return nil
}

// clean removes generations, but for the one in force, the one before it, and those that another process may be about to
// put in force.
func (d certificateDir) clean(before string) error {
	current, err := os.Readlink(filepath.Join(string(d), dataLink))
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), generationPrefix) || e.Name() == current || e.Name() == before {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleGeneration {
			errs = append(errs, os.RemoveAll(filepath.Join(string(d), e.Name())))
		}
	}
	return errors.Join(errs...)
}
