package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/store"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// testBackup: a backup made while others write is whole, and either engine is restored from it.
func testBackup(t *testing.T, p place) {
	s := p.open(t)
	for n := range 5 {
		if err := everyChange(t, s, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(t.Context(), "empty", nil, 0); err != nil {
		t.Fatal(err)
	}
	const records = 1 + 5*12 + 1
	path := filepath.Join(t.TempDir(), "ledger.backup")
	quiet := filepath.Join(filepath.Dir(path), "quiet.backup")
	if err := s.Backup(t.Context(), quiet); err != nil {
		t.Fatal(err)
	}
	want := answers(t, s)
	writing := make(chan error)
	go func() {
		writing <- errors.Join(atOnce(4, func(i int) error {
			var errs []error
			for n := 100 * (i + 1); n < 100*(i+1)+50; n++ {
				errs = append(errs, s.Begin(t.Context(), intentOf(n)), s.Finish(t.Context(), outcomeOf(n)))
			}
			return errors.Join(errs...)
		})...)
	}()
	if err := s.Backup(t.Context(), path); err != nil {
		t.Error(err)
	}
	if err := <-writing; err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if err != nil || !slices.Equal(names, []string{path, quiet}) {
		t.Errorf("files: %v, %v", names, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := s.Backup(t.Context(), path); err == nil || !strings.Contains(err.Error(), "choose another name") {
		t.Errorf("over a backup: %v", err)
	}
	if err := s.Backup(t.Context(), filepath.Join(path, "x")); err == nil {
		t.Error("below a file: accepted")
	}

	for name, restored := range map[string]func(*testing.T, string) (*store.Store, error){"SQLite": restoredSQLite, "PostgreSQL": restoredPostgres} {
		back, err := restored(t, quiet)
		back = opened(t, back, err)
		verify(t, back, records+1)
		if d := cmp.Diff(want, answers(t, back), cmp.Comparer(func(a, b spiffeid.ID) bool { return a == b })); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if err := everyChange(t, back, 50); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		verify(t, back, records+1+12)

		busy, err := restored(t, path)
		busy = opened(t, busy, err)
		if n, err := busy.Verify(t.Context()); err != nil || n < records+1 || n > records+1+400 {
			t.Errorf("%s: %d records, %v", name, n, err)
		}
	}
}

func restoredSQLite(t *testing.T, backup string) (*store.Store, error) {
	config := store.SQLiteConfig{Path: sqlitePath(t), Now: clock}
	if err := store.RestoreSQLite(t.Context(), backup, config, false); err != nil {
		return nil, err
	}
	return store.OpenSQLite(t.Context(), config)
}

func restoredPostgres(t *testing.T, backup string) (*store.Store, error) {
	config := store.PostgresConfig{DSN: postgresDSN(t), Now: clock}
	if err := store.RestorePostgres(t.Context(), backup, config); err != nil {
		return nil, err
	}
	return store.OpenPostgres(t.Context(), config)
}

// everything is what a store answers when it is asked for all there is.
type everything struct {
	Entries     []ca.Entry
	Events      []ca.Event
	Revocations []ca.Revocation
	Grants      [][]spiffeid.ID
	Values      []string
	Versions    []int64
}

// answers reads all that everyChange has written for the first numbers.
func answers(t *testing.T, s ca.Store) everything {
	t.Helper()
	out, err := tryAnswers(t, s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryAnswers(t *testing.T, s ca.Store) (out everything, err error) {
	var errs [3]error
	out.Entries, _, errs[0] = s.Find(t.Context(), ca.Query{Limit: 1000})
	out.Events, errs[1] = s.Events(t.Context(), at(-1e6), at(1e6), 1000)
	out.Revocations, errs[2] = s.Revoked(t.Context(), epoch)
	if err := errors.Join(errs[:]...); err != nil {
		return out, err
	}
	for n := range 6 {
		grants, err := s.Grants(t.Context(), intentOf(n).KeyHash)
		if err != nil {
			return out, err
		}
		out.Grants = append(out.Grants, grants)
	}
	for _, key := range []string{"key 0", "key 1", "key 2", "key 3", "key 4", "empty"} {
		value, version, err := s.Get(t.Context(), key)
		if err != nil && !errors.Is(err, ca.ErrNotFound) {
			return out, err
		}
		out.Values, out.Versions = append(out.Values, string(value)), append(out.Versions, version)
	}
	return out, nil
}
