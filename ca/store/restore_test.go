package store_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/store"
)

// TestRestore: over a ledger only when told, and the old one is kept.
func TestRestore(t *testing.T) {
	t.Parallel()
	path := sample(t)
	config := store.SQLiteConfig{Path: path, Now: clock}
	s, err := store.OpenSQLite(t.Context(), config)
	must(t, err)
	backup := filepath.Join(t.TempDir(), "backup")
	must(t, s.Backup(t.Context(), backup))
	issue(t, s, 700, 703)
	must(t, s.Close())

	if err := store.RestoreSQLite(t.Context(), backup, config, false); err == nil || !strings.Contains(err.Error(), "there is a ledger already") {
		t.Errorf("without being told: %v", err)
	}
	s, err = store.OpenSQLite(t.Context(), config)
	must(t, err)
	verify(t, s, 67)
	must(t, s.Close(), store.RestoreSQLite(t.Context(), backup, config, true))
	s, err = store.OpenSQLite(t.Context(), config)
	opened(t, s, err)
	verify(t, s, 62) // the record of the return
	if got := findAll(t, s, ca.Query{Serial: serialOf(701)}); len(got) != 0 {
		t.Error("a certificate from after the backup")
	}
	issue(t, s, 701, 702)

	old, err := filepath.Glob(path + ".replaced-*Z")
	if err != nil || len(old) != 1 {
		t.Fatalf("the old ledger: %v, %v", old, err)
	}
	aside, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: old[0]})
	verify(t, opened(t, aside, err), 67)
}

// TestRestoreDamaged: a backup that does not verify replaces nothing.
func TestRestoreDamaged(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, backup string){
		"early record changed": func(t *testing.T, backup string) { tamperSQLite(t, backup, "UPDATE journal SET at = 0 WHERE seq = 3") },
		"table changed":        func(t *testing.T, backup string) { tamperSQLite(t, backup, "UPDATE revocations SET lifted = 1") },
		"cut short":            func(t *testing.T, backup string) { must(t, os.Truncate(backup, 16384)) },
		"empty":                func(t *testing.T, backup string) { must(t, os.Truncate(backup, 0)) },
		"no database":          func(t *testing.T, backup string) { must(t, os.WriteFile(backup, []byte("x"), 0o600)) },
		"not there":            func(t *testing.T, backup string) { must(t, os.Remove(backup)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := sample(t)
			s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path})
			must(t, err)
			backup := filepath.Join(t.TempDir(), "backup")
			must(t, s.Backup(t.Context(), backup), s.Close())
			spoil(t, backup)
			before := files(t, path)
			if err := store.RestoreSQLite(t.Context(), backup, store.SQLiteConfig{Path: path}, true); err == nil {
				t.Error("restored")
			}
			if after := files(t, path); after["ledger.db"] != before["ledger.db"] || len(after) != len(before) {
				t.Error("something was touched")
			}
			fresh := sqlitePath(t)
			if err := store.RestoreSQLite(t.Context(), backup, store.SQLiteConfig{Path: fresh}, false); err == nil {
				t.Error("restored in an empty place")
			}
			if _, err := os.Stat(fresh); err == nil {
				t.Error("a ledger was left")
			}
		})
	}
}

// TestBackupCopiesEverything: no table or column is forgotten when a ledger goes from one engine to the other.
func TestBackupCopiesEverything(t *testing.T) {
	t.Parallel()
	s := sqlitePlace(t).open(t)
	tables, err := s.ReadRows(t.Context(), `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('ledger_schema')`, 1)
	must(t, err)
	copied := store.ColumnsOf()
	for _, table := range tables {
		columns, err := s.ReadRows(t.Context(), `SELECT name FROM pragma_table_info($1)`, 1, table)
		must(t, err)
		if !slices.Equal(columns, copied[table]) {
			t.Errorf("%s has columns %v, copied are %v", table, columns, copied[table])
		}
		delete(copied, table)
	}
	if len(copied) > 0 {
		t.Errorf("copied, but not there: %v", copied)
	}
}
