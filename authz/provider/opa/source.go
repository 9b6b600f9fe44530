package opa

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/loader"
)

// source is where policies come from.
type source interface {
	// fetch returns what is there, or nil if it is still what version says.
	fetch(ctx context.Context, version string) (*content, error)
}

// newSource opens nothing yet.
func newSource(c *Config) (source, error) {
	switch {
	case isURL(c.Bundle):
		return newRemote(c)
	case isTarball(c.Bundle):
		return tarball{c}, nil
	}
	return directory{c}, nil
}

// directory is a .rego file, or a directory of policies and data.
type directory struct{ config *Config }

// fetch implements [source].
func (d directory) fetch(_ context.Context, version string) (*content, error) {
	now, err := d.fingerprint()
	if err != nil {
		return nil, err
	}
	if now == version {
		return nil, nil
	}
	loaded, err := loader.NewFileLoader().
		WithRegoVersion(d.config.regoVersion()).
		WithCapabilities(d.config.capabilities()).
		WithProcessAnnotation(false).
		Filtered([]string{d.config.Bundle}, skipped)
	if err != nil {
		return nil, loadError(err)
	}
	return &content{modules: loaded.ParsedModules(), data: loaded.Documents, version: now}, nil
}

// skipped leaves out what is no policy and no data, tests of policies, and hidden files: Kubernetes mounts a volume with
// one of those beside the links to it.
func skipped(path string, info fs.FileInfo, depth int) bool {
	name := filepath.Base(path)
	if depth > 0 && strings.HasPrefix(name, ".") {
		return true
	}
	if info.IsDir() {
		return false
	}
	switch filepath.Ext(name) {
	case ".json", ".yaml", ".yml":
		return false
	case ".rego":
		return strings.HasSuffix(name, "_test.rego") && depth > 0
	}
	return true
}

// fingerprint changes when a file does. It also makes sure that there is something to load, and not too much.
func (d directory) fingerprint() (string, error) {
	sum := sha256.New()
	files, size := 0, int64(0)
	var walk func(path string, depth int) error
	walk = func(path string, depth int) error {
		info, err := os.Stat(path) // follows links, as the loader does
		if err != nil {
			return err
		}
		if skipped(path, info, depth) {
			return nil
		}
		if !info.IsDir() {
			files++
			size += info.Size()
			if files > maxBundleFiles || size > maxBundleBytes {
				return fmt.Errorf("%s holds more than %d files or %d bytes", d.config.Bundle, maxBundleFiles, maxBundleBytes)
			}
			_, _ = fmt.Fprintf(sum, "%s\x00%d\x00%d\n", path, info.Size(), info.ModTime().UnixNano())
			return nil
		}
		if depth > 32 {
			return fmt.Errorf("%s: directories nested too deep", path)
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := walk(filepath.Join(path, e.Name()), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(d.config.Bundle, 0); err != nil {
		return "", err
	}
	if files == 0 {
		return "", fmt.Errorf("%s holds no .rego file", d.config.Bundle)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// loadError shows OPA's errors of files one a line.
func loadError(err error) error {
	var list loader.Errors
	if !errors.As(err, &list) {
		return compileError(err)
	}
	lines := make([]error, 0, len(list))
	for i, e := range list {
		if i == maxCompileErrors {
			lines = append(lines, fmt.Errorf("and %d more", len(list)-i))
			break
		}
		lines = append(lines, compileError(e))
	}
	return errors.Join(lines...)
}

// tarball is a bundle in a file.
type tarball struct{ config *Config }

// fetch implements [source].
func (t tarball) fetch(_ context.Context, version string) (*content, error) {
	info, err := os.Stat(t.config.Bundle)
	if err != nil {
		return nil, err
	}
	now := fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano())
	if now == version {
		return nil, nil
	}
	data, err := readBounded(t.config.Bundle, maxBundleBytes)
	if err != nil {
		return nil, err
	}
	return t.config.readBundle(bytes.NewReader(data), now)
}

// readBundle reads a bundle, after its signature if there is a key.
func (c *Config) readBundle(r io.Reader, version string) (*content, error) {
	name := filepath.Base(c.Bundle)
	if isURL(c.Bundle) {
		name = "bundle"
	}
	reader := bundle.NewReader(r).
		WithSizeLimitBytes(maxBundleBytes).
		WithRegoVersion(c.regoVersion()).
		WithCapabilities(c.capabilities()).
		WithBundleName(name)
	if c.Key == nil {
		reader = reader.WithSkipBundleVerification(true)
	} else {
		pem, err := readBounded(c.Key.File, maxKeyBytes)
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		const id = "configured"
		key := &bundle.KeyConfig{Key: string(pem), Algorithm: cmp.Or(c.Key.Algorithm, keyAlgorithms()[0]), Scope: c.Key.Scope}
		reader = reader.WithBundleVerificationConfig(bundle.NewVerificationConfig(map[string]*bundle.KeyConfig{id: key}, id, c.Key.Scope, nil))
	}
	b, err := reader.Read()
	if err != nil {
		return nil, compileError(err)
	}
	if b.Type() != bundle.SnapshotBundleType {
		return nil, errors.New("a delta bundle says only what changes: serve whole bundles")
	}
	modules := make(map[string]*ast.Module, len(b.Modules))
	for _, m := range b.Modules {
		if !strings.HasSuffix(m.Path, "_test.rego") {
			modules[m.Path] = m.Parsed
		}
	}
	return &content{modules: modules, data: b.Data, revision: b.Manifest.Revision, version: version}, nil
}

// readBounded reads a whole file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return slices.Clip(data), nil
}
