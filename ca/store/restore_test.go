package store_test

import (
	"maps"
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

// TestVerifyBackup: a backup is verified where it lies, whatever it comes from, and nothing is touched.
func TestVerifyBackup(t *testing.T) {
	t.Parallel()
	s := sqlitePlace(t).open(t)
	for n := range 3 {
		must(t, everyChange(t, s, n))
	}
	must(t, s.Begin(t.Context(), intentOf(90)))
	backup := filepath.Join(t.TempDir(), "backup")
	must(t, s.Backup(t.Context(), backup), os.Chmod(backup, 0o400), os.Chmod(filepath.Dir(backup), 0o500))
	t.Cleanup(func() { must(t, os.Chmod(filepath.Dir(backup), 0o700)) })
	before := files(t, backup)
	got, err := store.VerifyBackup(t.Context(), backup)
	must(t, err)
	want := store.Contents{
		Schema: 2, Records: 1 + 3*12 + 1, Certificates: 4, Outcomes: 3, Events: 3, Tokens: 3, Revocations: 6, Documents: 3,
		Last: epoch, Head: got.Head,
	}
	if got != want || got.Head == [32]byte{} {
		t.Errorf("%+v, want %+v", got, want)
	}
	if after := files(t, backup); !maps.Equal(before, after) {
		t.Errorf("something was touched: %d files, %d before", len(after), len(before))
	}
}

func TestVerifyBackupRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spoil   func(t *testing.T, backup string)
		want    string
		records int64
	}{
		"an early record changed": {func(t *testing.T, backup string) { tamperSQLite(t, backup, "UPDATE journal SET at = 0 WHERE seq = 7") }, "record 7 of the journal", 6},
		"the last record gone":    {func(t *testing.T, backup string) { tamperSQLite(t, backup, "DELETE FROM journal WHERE seq = 61") }, "record 61 of the journal is missing", 60},
		"a table changed":         {func(t *testing.T, backup string) { tamperSQLite(t, backup, "UPDATE revocations SET lifted = 1") }, "revocations", -1},
		"an index gone":           {func(t *testing.T, backup string) { tamperSQLite(t, backup, "DROP INDEX certificates_open") }, "certificates_open", 0},
		"of a newer writ":         {func(t *testing.T, backup string) { tamperSQLite(t, backup, "INSERT INTO ledger_schema VALUES (3, 0)") }, "of version 3", 0},
		"no ledger":               {func(t *testing.T, backup string) { tamperSQLite(t, backup, "DROP TABLE ledger_schema") }, "not a ledger", 0},
		"cut short":               {func(t *testing.T, backup string) { must(t, os.Truncate(backup, 16384)) }, "malformed", 0},
		"empty":                   {func(t *testing.T, backup string) { must(t, os.Truncate(backup, 0)) }, "not a ledger", 0},
		"no database":             {func(t *testing.T, backup string) { must(t, os.WriteFile(backup, []byte("x"), 0o600)) }, "not a ledger", 0},
		"not there":               {func(t *testing.T, backup string) { must(t, os.Remove(backup)) }, "no such file", 0},
		"a log beside it":         {func(t *testing.T, backup string) { must(t, os.WriteFile(backup+"-wal", nil, 0o600)) }, "in use", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: sample(t)})
			must(t, err)
			backup := filepath.Join(t.TempDir(), "backup")
			must(t, s.Backup(t.Context(), backup), s.Close())
			test.spoil(t, backup)
			got, err := store.VerifyBackup(t.Context(), backup)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), backup) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if test.records >= 0 && got != (store.Contents{Records: test.records}) {
				t.Errorf("%+v, want %d good records and nothing else", got, test.records)
			}
		})
	}
}

// TestRestoreOlder: a backup of a writ before the last migration is verified and restored by this one.
func TestRestoreOlder(t *testing.T) {
	t.Parallel()
	s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: sample(t)})
	must(t, err)
	backup := filepath.Join(t.TempDir(), "backup")
	must(t, s.Backup(t.Context(), backup), s.Close())
	tamperSQLite(t, backup, "DROP INDEX certificates_open; DELETE FROM ledger_schema WHERE version = 2")
	found, err := store.VerifyBackup(t.Context(), backup)
	if err != nil || found.Schema != 1 || found.Records != 61 {
		t.Errorf("%+v, %v", found, err)
	}
	for name, restored := range map[string]func(*testing.T, string) (*store.Store, error){"SQLite": restoredSQLite, "PostgreSQL": restoredPostgres} {
		back, err := restored(t, backup)
		back = opened(t, back, err)
		verify(t, back, 62)
		if versions, err := back.ReadRows(t.Context(), `SELECT CAST(max(version) AS TEXT) FROM ledger_schema`, 1); err != nil || !slices.Equal(versions, []string{"2"}) {
			t.Errorf("%s: version %v, %v", name, versions, err)
		}
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
