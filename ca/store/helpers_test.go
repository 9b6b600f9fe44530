package store_test

import (
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/store"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// epoch is when the tests take place.
var epoch = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

// serialOf makes the serial number of the nth certificate. No two are alike, and neighbours are far apart.
func serialOf(n int) ca.Serial {
	h := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("serial"), uint64(n)))
	s := ca.Serial(h[:16])
	s[0] &= 0x7f
	return s
}

func idOf(format string, args ...any) spiffeid.ID {
	id, err := spiffeid.Parse("spiffe://cluster.local" + fmt.Sprintf(format, args...))
	if err != nil {
		panic(err)
	}
	return id
}

// intentOf makes the nth intent: decided n seconds after epoch, for one hour, one of ten identities, three callers and
// two issuers.
func intentOf(n int) ca.Intent {
	at := epoch.Add(time.Duration(n) * time.Second)
	return ca.Intent{
		Serial: serialOf(n), ID: idOf("/ns/coffee-shop/sa/w%d", n%10), Issuer: fmt.Sprintf("issuer-%d", n%2),
		Caller: fmt.Sprintf("oidc:caller-%d", n%3), Profile: "workload", TTLRule: "default",
		KeyHash:   sha256.Sum256(binary.BigEndian.AppendUint64([]byte("key"), uint64(n))),
		NotBefore: at.Add(-2 * time.Minute), NotAfter: at.Add(time.Hour), At: at,
	}
}

// outcomeOf makes the outcome of the nth intent: a certificate, but every seventh fails.
func outcomeOf(n int) ca.Outcome {
	o := ca.Outcome{Serial: serialOf(n), At: epoch.Add(time.Duration(n)*time.Second + time.Millisecond)}
	if n%7 == 6 {
		o.Failure = fmt.Sprintf("signer said no to %d", n)
		return o
	}
	o.Certificate = certificateOf(n)
	return o
}

// certificateOf is as long as a certificate on P-256 and says nothing.
func certificateOf(n int) []byte {
	der := make([]byte, 600)
	for i := 0; i < len(der); i += sha256.Size {
		h := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("certificate"), uint64(n<<16|i)))
		copy(der[i:], h[:])
	}
	return der
}

// entryOf is what Find has to return for the nth intent and outcome.
func entryOf(n int) ca.Entry {
	o := outcomeOf(n)
	e := ca.Entry{Intent: intentOf(n), State: ca.StateIssued, Certificate: o.Certificate, Failure: o.Failure}
	if o.Failure != "" {
		e.State = ca.StateFailed
	}
	return e
}

// issue records certificates from to to-1, one after the other.
func issue(t *testing.T, s ca.Store, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if err := s.Begin(t.Context(), intentOf(n)); err != nil {
			t.Fatal(err)
		}
		if err := s.Finish(t.Context(), outcomeOf(n)); err != nil {
			t.Fatal(err)
		}
	}
}

// place is where one store of a test lives.
type place struct {
	// open opens the store again, closed at the end of the test.
	open func(t *testing.T) *store.Store
	// tamper runs SQL behind the store's back, with what protects the journal out of the way.
	tamper func(t *testing.T, sql string)
	// exec runs SQL as anybody could who reaches the database.
	exec func(t *testing.T, sql string) error
	// bytes writes a literal of bytes.
	bytes func(b []byte) string
	// shared: several stores may have it open at once.
	shared bool
}

// dialect puts the bytes in that the words ZERO, key_of_thief and right_value stand for.
func (p place) dialect(sql string) string {
	return strings.NewReplacer("ZERO", p.bytes(make([]byte, 32)), "key_of_thief", p.bytes([]byte("mine")), "right_value", p.bytes([]byte("value"))).Replace(sql)
}

// opened closes a store with its test.
func opened(t *testing.T, s *store.Store, err error) *store.Store {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// clock is the time of the journal in tests.
func clock() time.Time { return epoch }

func sqlitePath(t testing.TB) string { return filepath.Join(t.TempDir(), "state", "ledger.db") }

// sqlitePlace makes a new ledger in a temporary directory.
func sqlitePlace(t *testing.T) place {
	path := sqlitePath(t)
	return place{
		open: func(t *testing.T) *store.Store {
			s, err := store.OpenSQLite(t.Context(), store.SQLiteConfig{Path: path, Create: true, Now: clock})
			return opened(t, s, err)
		},
		tamper: func(t *testing.T, sql string) { tamperSQLite(t, path, sql) },
		exec: func(t *testing.T, statement string) error {
			db, err := sql.Open("sqlite", path)
			if err != nil {
				return err
			}
			_, err = db.ExecContext(t.Context(), statement)
			return errors.Join(err, db.Close())
		},
		bytes: func(b []byte) string { return fmt.Sprintf("x'%x'", b) },
	}
}

// tamperSQLite runs SQL on a file without its triggers and puts them back.
func tamperSQLite(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	rows, err := db.QueryContext(t.Context(), `SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'`)
	if err != nil {
		t.Fatal(err)
	}
	script, restore := "PRAGMA busy_timeout = 5000; BEGIN;", ""
	for rows.Next() {
		var name, create string
		if err := rows.Scan(&name, &create); err != nil {
			t.Fatal(err)
		}
		script += "DROP TRIGGER " + name + ";"
		restore += create + ";"
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), script+statement+";"+restore+"COMMIT"); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func verify(t *testing.T, s ca.Ledger, want int64) {
	t.Helper()
	n, err := s.Verify(t.Context())
	if err != nil || n != want {
		t.Fatalf("verify: %d records, %v, want %d", n, err, want)
	}
}
