package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/store"
)

// BenchmarkIssue is one certificate: intent and outcome, each on disk before it returns, with as many callers as a
// busy authority has. It reports certificates a second, changes per sync, and what one sync of 32 KiB costs here.
func BenchmarkIssue(b *testing.B) {
	b.Run("SQLite", func(b *testing.B) {
		benchmarkIssue(b, openSQLite(b))
		b.ReportMetric(float64(syncFloor(b).Microseconds()), "µs/sync-floor")
	})
	b.Run("SQLite-one-caller", func(b *testing.B) {
		s := openSQLite(b)
		for n := 0; b.Loop(); n++ {
			issueOne(b, s, n)
		}
		report(b, s)
	})
	b.Run("PostgreSQL", func(b *testing.B) {
		s, err := store.OpenPostgres(b.Context(), store.PostgresConfig{DSN: postgresDSN(b), Create: true})
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		benchmarkIssue(b, s)
	})
}

func openSQLite(b *testing.B) *store.Store {
	s, err := store.OpenSQLite(b.Context(), store.SQLiteConfig{Path: sqlitePath(b), Create: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

func issueOne(b *testing.B, s ca.Ledger, n int) {
	if err := s.Begin(b.Context(), intentOf(n)); err != nil {
		b.Error(err)
	}
	if err := s.Finish(b.Context(), outcomeOf(n)); err != nil {
		b.Error(err)
	}
}

func benchmarkIssue(b *testing.B, s *store.Store) {
	var next atomic.Int64
	b.SetParallelism(64)
	b.ReportAllocs()
	b.ResetTimer() // a server may have been started
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			issueOne(b, s, int(next.Add(1)))
		}
	})
	report(b, s)
}

func report(b *testing.B, s *store.Store) {
	st := s.Stats()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "certs/s")
	b.ReportMetric(float64(st.Changes)/float64(st.Groups), "changes/group")
	b.ReportMetric(float64(st.CommitTime.Microseconds())/float64(st.Groups), "µs/commit")
	b.ReportMetric(float64(st.WriteTime.Microseconds())/float64(st.Changes), "µs/change")
}

// BenchmarkRows is one certificate, and the look-ups, in a small ledger and in one of WRIT_ROWS certificates (default
// 50,000; a million takes minutes to fill). The cost stays flat.
func BenchmarkRows(b *testing.B) {
	large := 50_000
	if text := os.Getenv("WRIT_ROWS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatalf("WRIT_ROWS: %v", err)
		}
		large = n
	}
	for _, rows := range []int{1000, large} {
		b.Run(fmt.Sprintf("%d", rows), func(b *testing.B) { benchmarkRows(b, rows) })
	}
}

func benchmarkRows(b *testing.B, rows int) {
	s := openSQLite(b)
	var next atomic.Int64
	fill := func(until int) {
		atOnce(128, func(int) error {
			for {
				n := int(next.Add(1))
				if n > until {
					return nil
				}
				issueOne(b, s, n)
			}
		})
		next.Store(int64(until))
	}
	fill(rows)
	b.Run("issue", func(b *testing.B) {
		until := int(next.Load())
		for b.Loop() {
			until += 1000
			fill(until)
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "µs/cert")
	})
	middle := intentOf(rows / 2)
	for _, look := range []struct {
		name string
		q    ca.Query
	}{
		{"serial", ca.Query{Serial: middle.Serial}},
		{"key", ca.Query{KeyHash: middle.KeyHash}},
		{"identity", ca.Query{ID: middle.ID, Limit: 10}},
		{"caller", ca.Query{Caller: middle.Caller, Limit: 10}},
		{"issuer", ca.Query{Issuer: middle.Issuer, Limit: 10}},
		{"time", ca.Query{After: middle.At.Add(-time.Minute), Before: middle.At, Limit: 10}},
		{"live", ca.Query{LiveAt: at(rows), Limit: 10}},
		{"live-issuer", ca.Query{LiveAt: at(rows), Issuer: middle.Issuer, Limit: 10}},
		{"live-none", ca.Query{LiveAt: at(rows * 100), Issuer: middle.Issuer, Limit: 10}},
		{"newest", ca.Query{Limit: 10}},
	} {
		b.Run(look.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				entries, _, err := s.Find(b.Context(), look.q)
				if err != nil || (len(entries) == 0) != (look.name == "live-none") {
					b.Fatalf("%d entries, %v", len(entries), err)
				}
			}
		})
	}
	b.Run("verify", func(b *testing.B) {
		var records int64
		for b.Loop() {
			n, err := s.Verify(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			records += n
		}
		b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
	})
}

// syncFloor is the median time of a sync after 32 KiB, in the file system of the test.
func syncFloor(b *testing.B) time.Duration {
	f, err := os.Create(filepath.Join(b.TempDir(), "floor"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 32<<10)
	took := make([]time.Duration, 101)
	for i := range took {
		if _, err := f.WriteAt(data, int64(i%8)*int64(len(data))); err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took[len(took)/2]
}
