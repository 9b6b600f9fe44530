package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/writ-auth/writ/internal/durable"
)

func TestWriteFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "key.pem")
	for _, content := range []string{"first, which is longer", "second", ""} {
		if err := durable.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Errorf("read %q, %v, want %q", got, err, content)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("%d files left, %v, want one", len(left), err)
	}
}

func TestWriteFileKeepsTheOldOneOnFailure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// A directory cannot be replaced by a file: the rename fails after everything else was done.
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "inside"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("x"), 0o600); err == nil {
		t.Error("replaced a directory")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("%d files left, %v, want only the directory", len(left), err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "absent", "file"), nil, 0o600); err == nil {
		t.Error("wrote into a directory that does not exist")
	}
}
