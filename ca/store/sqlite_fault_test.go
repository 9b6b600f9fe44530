package store_test

import (
	"bytes"
	"database/sql"
	"encoding/hex"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/store"
	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/testkit"
)

// sample makes a closed ledger of 61 records and returns its path.
func sample(t *testing.T) string {
	t.Helper()
	path := sqlitePath(t)
	s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path, Create: true, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		if err := everyChange(t, s, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs SQL on a file, as somebody else.
func run(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), statement)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestOpenRefuses: whatever is wrong with what is there, Open says so and makes nothing new beside it, whether it may
// create or not.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T, path string)
		want  string
	}{
		{"empty", func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) }, "the file is empty"},
		{"cut short", func(t *testing.T, path string) { must(t, os.Truncate(path, 8192)) }, "malformed"},
		{"not a database", func(t *testing.T, path string) {
			must(t, os.WriteFile(path, bytes.Repeat([]byte("text\n"), 2000), 0o600))
		}, "not a database"},
		{"another database", func(t *testing.T, path string) {
			must(t, os.Remove(path))
			run(t, path, "CREATE TABLE x (y)")
			must(t, os.Chmod(path, 0o600))
		}, "not a ledger of writ"},
		{"a directory", func(t *testing.T, path string) { must(t, os.Remove(path), os.Mkdir(path, 0o700)) }, "no regular file"},
		{"lost", func(t *testing.T, path string) { must(t, os.Remove(path)) }, "there is no ledger|remembers 61 records"},
		{"lost but for its log", func(t *testing.T, path string) {
			must(t, os.Rename(path, path+"-wal"), os.Remove(path+"-lock"))
		}, "there is no ledger|write-ahead log (-wal) is there"},
		{"older copy", func(t *testing.T, path string) {
			old, err := os.ReadFile(path)
			must(t, err)
			s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path})
			must(t, err)
			issue(t, s, 500, 501)
			must(t, s.Close(), os.WriteFile(path, old, 0o600))
		}, "ends with record 61, but record 63 was acknowledged"},
		{"another ledger", func(t *testing.T, path string) {
			other, err := os.ReadFile(sample(t))
			must(t, err, os.WriteFile(path, other, 0o600))
		}, "it is another ledger"},
		{"lock file damaged", func(t *testing.T, path string) { must(t, os.WriteFile(path+"-lock", []byte("x"), 0o600)) }, "lock file (-lock) is damaged"},
		{"readable by others", func(t *testing.T, path string) { must(t, os.Chmod(path, 0o640)) }, "has mode 0640"},
		{"directory writable by others", func(t *testing.T, path string) { must(t, os.Chmod(filepath.Dir(path), 0o777)) }, "has mode 0777"},
		{"from the future", func(t *testing.T, path string) { run(t, path, "INSERT INTO ledger_schema VALUES (7, 0)") }, "tables are of version 7"},
		{"trigger dropped", func(t *testing.T, path string) { run(t, path, "DROP TRIGGER journal_delete") }, "its trigger journal_delete is not the one"},
		{"index dropped", func(t *testing.T, path string) { run(t, path, "DROP INDEX certificates_serial") }, "its index certificates_serial is not the one"},
		{"trigger added", func(t *testing.T, path string) {
			run(t, path, "CREATE TRIGGER x AFTER INSERT ON journal BEGIN UPDATE head SET misses = 0; END")
		}, "trigger x that writ did not make"},
		{"last record changed", func(t *testing.T, path string) { tamperSQLite(t, path, "UPDATE journal SET at = 0 WHERE seq = 61") }, "record 61 of the journal does not match its hash"},
		{"last record gone", func(t *testing.T, path string) { tamperSQLite(t, path, "DELETE FROM journal WHERE seq = 61") }, "record 61 of the journal is missing"},
		{"last record gone, head too", func(t *testing.T, path string) {
			tamperSQLite(t, path, "DELETE FROM journal WHERE seq = 61; UPDATE head SET seq = 60, hash = (SELECT hash FROM journal WHERE seq = 60)")
		}, "ends with record 60, but record 61 was acknowledged"},
		{"head gone", func(t *testing.T, path string) { run(t, path, "DELETE FROM head") }, "lost its head"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			path := sample(t)
			test.spoil(t, path)
			before := files(t, path)
			wants := strings.Split(test.want, "|")
			for i, create := range []bool{false, true} {
				s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path, Create: create})
				if want := wants[min(i, len(wants)-1)]; err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("create %v: %v, want %q", create, err, want)
				}
				if s != nil {
					t.Error("a store came with the error")
				}
			}
			if after := files(t, path); after[filepath.Base(path)] != before[filepath.Base(path)] {
				t.Error("the ledger was touched")
			}
		})
	}
}

// files maps the names beside a path to what they hold.
func files(t *testing.T, path string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	entries, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	for _, e := range entries {
		if e.Type().IsRegular() {
			b, err := os.ReadFile(filepath.Join(filepath.Dir(path), e.Name()))
			must(t, err)
			out[e.Name()] = string(b)
		}
	}
	return out
}

func TestOpenWithoutCreate(t *testing.T) {
	t.Parallel()
	path := sqlitePath(t)
	for _, p := range []string{path, "", "a\x00b"} {
		if s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: p}); err == nil || s != nil || errors.Is(err, store.ErrNone) != (p == path) {
			t.Errorf("%q: %v, %v", p, s, err)
		}
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its directory was made: %v", err)
	}
	if _, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path, Create: true, Queue: -1}); err == nil {
		t.Error("negative queue: accepted")
	}
}

// TestModes: nobody else reads what is written, whatever the umask.
func TestModes(t *testing.T) {
	path := sqlitePath(t)
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path, Create: true})
	opened(t, s, err)
	issue(t, s, 0, 3)
	must(t, s.Backup(t.Context(), path+".backup"))
	for name, want := range map[string]fs.FileMode{".": 0o700, "ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600, "ledger.db-lock": 0o600, "ledger.db.backup": 0o600} {
		info, err := os.Stat(filepath.Join(filepath.Dir(path), name))
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %#o, want %#o", name, info.Mode().Perm(), want)
		}
	}
}

// TestSecondAuthority: one process has the ledger; the next one is told, and gets it once the first is dead.
func TestSecondAuthority(t *testing.T) {
	t.Parallel()
	path := sample(t)
	cmd := hold(t, helperOpen, path)
	for range 2 {
		_, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path})
		if err == nil || !strings.Contains(err.Error(), "another authority has this state open") {
			t.Errorf("second authority: %v", err)
		}
	}
	if err := store.RestoreSQLite(t.Context(), path, store.SQLiteConfig{Path: path}, true); err == nil || !strings.Contains(err.Error(), "another authority") {
		t.Errorf("restore over an open ledger: %v", err)
	}
	kill(t, cmd)
	s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path})
	verify(t, opened(t, s, err), 61)
	if _, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path}); err == nil {
		t.Error("twice in one process: accepted")
	}
}

// TestDiskFull: what does not fit is refused, what was acknowledged stays, and it goes on once there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	path := sample(t)
	s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path})
	opened(t, s, err)
	token := ca.Token{Hash: [32]byte{1}, IDs: []spiffeid.ID{idOf("/x")}, Created: epoch, Expires: at(1000)}
	must(t, s.PutToken(t.Context(), token), s.WriterPragma(t.Context(), "max_page_count = 60"))
	n := 1000
	for ; ; n++ {
		if err := s.Begin(t.Context(), intentOf(n)); err != nil {
			if !errors.Is(err, ca.ErrUnavailable) || !strings.Contains(err.Error(), "full") {
				t.Errorf("begin: %v", err)
			}
			break
		}
	}
	if n == 1000 || n > 2000 {
		t.Errorf("full after %d", n-1000)
	}
	for range 3 {
		if err := s.Put(t.Context(), "big", make([]byte, 500_000), 0); !errors.Is(err, ca.ErrUnavailable) {
			t.Errorf("put: %v", err)
		}
	}
	check := func() {
		t.Helper()
		for i := 1000; i < n; i++ {
			if entries, _, err := s.Find(t.Context(), ca.Query{Serial: serialOf(i)}); err != nil || len(entries) != 1 {
				t.Errorf("certificate %d: %d, %v", i, len(entries), err)
			}
		}
		if _, err := s.Verify(t.Context()); err != nil {
			t.Error(err)
		}
	}
	check()
	must(t, s.WriterPragma(t.Context(), "max_page_count = 100000"))
	must(t, s.Begin(t.Context(), intentOf(n)), s.Put(t.Context(), "big", make([]byte, 500_000), 0))
	if _, err := s.TakeToken(t.Context(), token.Hash, [32]byte{1}, epoch); err != nil {
		t.Error(err)
	}
	check()
	if st := s.Stats(); st.Failed < 4 || st.Groups <= st.Failed {
		t.Errorf("%+v", st)
	}
}

// TestLocked: another program that locks the database makes changes fail, not wait for ever.
func TestLocked(t *testing.T) {
	t.Parallel()
	path := sample(t)
	s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path})
	opened(t, s, err)
	must(t, s.WriterPragma(t.Context(), "busy_timeout = 50"))
	db, err := sql.Open("sqlite", path)
	must(t, err)
	defer db.Close()
	conn, err := db.Conn(t.Context())
	must(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	must(t, err)
	if err := s.Begin(t.Context(), intentOf(100)); !errors.Is(err, ca.ErrUnavailable) || !strings.Contains(err.Error(), "locked") {
		t.Errorf("locked: %v", err)
	}
	if _, _, err := s.Find(t.Context(), ca.Query{}); err != nil {
		t.Errorf("reading beside a lock: %v", err)
	}
	_, err = conn.ExecContext(t.Context(), "ROLLBACK")
	must(t, err, s.Begin(t.Context(), intentOf(100)))
	verify(t, s, 62)
}

// TestReadOnly: a ledger that this user may not write is refused, with its name.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	// Root may write everything, so this runs as somebody else.
	dir, err := os.MkdirTemp("", "writ-store-") //nolint:usetesting // nobody else reaches what is below t.TempDir
	must(t, err)
	defer os.RemoveAll(dir)
	credential, err := testkit.Unprivileged(dir)
	must(t, err, os.Chmod(dir, 0o755))
	self, err := os.Executable()
	must(t, err)
	binary, err := os.ReadFile(self)
	must(t, err, os.WriteFile(filepath.Join(dir, "store.test"), binary, 0o755))
	for _, test := range []struct {
		name         string
		file, folder fs.FileMode
		want         string
	}{
		{"both writable", 0o600, 0o700, "open"},
		{"directory", 0o600, 0o500, "has to be writable"},
		{"file", 0o400, 0o700, "permission denied"},
		{"file that cannot be read", 0o000, 0o700, "permission denied"},
	} {
		path := filepath.Join(dir, test.name, "ledger.db")
		must(t, os.Mkdir(filepath.Dir(path), 0o700))
		content, err := os.ReadFile(sample(t))
		must(t, err, os.WriteFile(path, content, 0o600), os.Chmod(path, test.file), os.Chmod(filepath.Dir(path), test.folder))
		if credential != nil {
			must(t, os.Chown(path, int(credential.Uid), int(credential.Gid)), os.Chown(filepath.Dir(path), int(credential.Uid), int(credential.Gid)))
		}
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "store.test"))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "WRIT_STORE_HELPER="+helperOpen, "WRIT_STORE_AT="+path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
		out, _ := cmd.CombinedOutput()
		if !strings.Contains(string(out), test.want) {
			t.Errorf("%s: %s, want %q", test.name, out, test.want)
		}
	}
}

// TestFlippedBits: wherever a byte of the file changes, either Open or Verify reports it, or it makes no difference to
// any answer.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: sample(t), Now: clock})
	opened(t, s, err)
	want := answers(t, s)
	compact := filepath.Join(t.TempDir(), "compact.db") // a backup has little that is unused
	must(t, s.Backup(t.Context(), compact))
	content, err := os.ReadFile(compact)
	must(t, err)
	random := rand.New(rand.NewPCG(6, 7))
	reported, harmless := 0, 0
	for reported+harmless < 100 {
		offset, bit := random.IntN(len(content)), byte(1)<<random.IntN(8)
		if content[offset] == 0 && random.IntN(20) != 0 {
			continue // free space, mostly
		}
		spoilt := bytes.Clone(content)
		spoilt[offset] ^= bit
		path := filepath.Join(t.TempDir(), "ledger.db")
		must(t, os.WriteFile(path, spoilt, 0o600))
		got, err := openAndVerify(t, path)
		switch {
		case err != nil:
			reported++
		case cmp.Equal(want, got, cmp.Comparer(func(a, b spiffeid.ID) bool { return a == b })):
			harmless++
		default:
			harmless++
			t.Errorf("bit %#x at %d went unnoticed\n%s", bit, offset, hex.Dump(content[offset&^63:offset&^63+64]))
		}
	}
	t.Logf("%d bits: %d reported, %d harmless", reported+harmless, reported, harmless)
	if reported < 50 { // the rest is in bytes that no page uses: copies that SQLite leaves when a page splits
		t.Error("the test says nothing")
	}
}

func openAndVerify(t *testing.T, path string) (out everything, err error) {
	s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path, Now: clock})
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if _, err := s.Verify(t.Context()); err != nil {
		return out, err
	}
	return tryAnswers(t, s)
}

// TestDamagedWhileOpen: once SQLite has found damage, nothing is written any more.
func TestDamagedWhileOpen(t *testing.T) {
	t.Parallel()
	path := sqlitePath(t)
	s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path, Create: true})
	opened(t, s, err)
	issue(t, s, 0, 200)
	must(t, s.Close())
	s, err = store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path})
	must(t, err)
	defer s.Close() // may find the damage as well
	content, err := os.ReadFile(path)
	must(t, err)
	for i := 100; i < len(content); i++ {
		content[i] = 0xa5
	}
	must(t, os.WriteFile(path, content, 0o600))
	var first error
	for n := 200; n < 400 && first == nil; n++ {
		first = s.Begin(t.Context(), intentOf(n))
	}
	if !errors.Is(first, ca.ErrUnavailable) {
		t.Fatalf("nobody has noticed: %v", first)
	}
	if err := s.Put(t.Context(), "x", nil, 0); !errors.Is(err, ca.ErrUnavailable) || !strings.Contains(err.Error(), "cannot be trusted") {
		t.Errorf("after that: %v", err)
	}
}

// TestLogLost: without the write-ahead log of a process that was killed, or with a damaged one, acknowledged records
// are missing, and Open says so.
func TestLogLost(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(wal string) error{
		"removed":  os.Remove,
		"empty":    func(wal string) error { return os.Truncate(wal, 0) },
		"cut":      func(wal string) error { return os.Truncate(wal, 40_000) },
		"one byte": func(wal string) error { return flip(wal, 40_000) },
		"last":     func(wal string) error { return flip(wal, -2000) },
	} {
		path := filepath.Join(t.TempDir(), "ledger.db")
		kill(t, hold(t, helperFill, path))
		must(t, spoil(path+"-wal"))
		_, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path, Create: true})
		if err == nil || !strings.Contains(err.Error(), "was acknowledged") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// flip changes a byte of a file, counted from its end when offset is negative.
func flip(path string, offset int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if offset < 0 {
		offset += len(b)
	}
	b[offset] ^= 0x10
	return os.WriteFile(path, b, 0o600)
}
