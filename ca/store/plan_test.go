package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/store"
)

// allQueries has one query for each set of fields, of a store that has certificates 0 to 39.
func allQueries() []ca.Query {
	i := intentOf(3)
	set := []func(*ca.Query){
		func(q *ca.Query) { q.ID = i.ID },
		func(q *ca.Query) { q.Serial = i.Serial },
		func(q *ca.Query) { q.Caller = i.Caller },
		func(q *ca.Query) { q.Issuer = i.Issuer },
		func(q *ca.Query) { q.KeyHash = i.KeyHash },
		func(q *ca.Query) { q.LiveAt = epoch },
		func(q *ca.Query) { q.Open = true },
		func(q *ca.Query) { q.After = epoch },
		func(q *ca.Query) { q.Before = epoch.Add(time.Hour) },
		func(q *ca.Query) { q.Cursor = "next" },
	}
	out := make([]ca.Query, 1<<len(set))
	for bits := range out {
		for n, f := range set {
			if bits>>n&1 == 1 {
				f(&out[bits])
			}
		}
	}
	return out
}

// plans calls check with the query plan of everything that is asked of a store.
func plans(t *testing.T, s *store.Store, explain func(sql string, args ...any) (string, error), check func(what, plan string)) {
	t.Helper()
	issue(t, s, 0, 40)
	cursors := make(map[bool]string)
	for _, q := range []ca.Query{{Limit: 1}, {Limit: 1, LiveAt: epoch}} {
		_, next, err := s.Find(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		cursors[!q.LiveAt.IsZero()] = next
	}
	try := func(what, sql string, args ...any) {
		t.Helper()
		plan, err := explain(sql, args...)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		check(what, plan)
	}
	for _, q := range allQueries() {
		if q.Open && !q.LiveAt.IsZero() {
			continue // nothing is, and nobody is asked
		}
		if q.Cursor != "" {
			byExpiry := !q.LiveAt.IsZero() && q.ID.IsZero() && q.Serial == ca.Serial{} && q.Caller == "" && q.KeyHash == [32]byte{}
			q.Cursor = cursors[byExpiry]
		}
		sql, args, err := s.FindSQL(t.Context(), q)
		if err != nil || sql == "" {
			t.Fatalf("%+v: %q, %v", q, sql, err)
		}
		try(sql[strings.Index(sql, "WHERE"):], sql, args...)
	}
	try("grants", store.GrantsSQL, "x")
	try("present token", store.PresentTokenSQL, []byte("x"), []byte("y"))
	try("revoked", store.RevokedSQL, epoch.UnixMicro())
	try("state", store.StateSQL, "x")
}

// TestPlansSQLite: every question is answered through an index, and pages come in its order, without a sort.
func TestPlansSQLite(t *testing.T) {
	t.Parallel()
	s := sqlitePlace(t).open(t)
	plans(t, s, func(sql string, args ...any) (string, error) {
		rows, err := s.ReadRows(t.Context(), "EXPLAIN QUERY PLAN "+sql, 4, args...)
		return strings.Join(rows, "\n"), err
	}, func(what, plan string) {
		for line := range strings.Lines(plan) {
			sorts := strings.Contains(line, "TEMP B-TREE") && what != "revoked" && what != "grants" // whole answers, not pages
			if strings.HasPrefix(line, "SCAN ") || sorts {
				t.Errorf("%s\n%s", what, plan)
			}
		}
		if strings.HasPrefix(what, "WHERE") && !strings.HasPrefix(plan, "SEARCH c USING") {
			t.Errorf("%s: certificates are not the first to be searched\n%s", what, plan)
		}
	})
}

// TestPlansPostgres: the same, if the planner is told that its tables are large.
func TestPlansPostgres(t *testing.T) {
	t.Parallel()
	dsn := postgresDSN(t) + "&enable_seqscan=off&enable_bitmapscan=off&enable_hashjoin=off&enable_mergejoin=off&enable_sort=off&enable_incremental_sort=off&enable_material=off"
	s, err := store.OpenPostgres(t.Context(), store.PostgresConfig{DSN: dsn, Create: true, Now: clock})
	opened(t, s, err)
	plans(t, s, func(sql string, args ...any) (string, error) {
		rows, err := s.ReadRows(t.Context(), "EXPLAIN "+sql, 1, args...)
		return strings.Join(rows, "\n"), err
	}, func(what, plan string) {
		sorts := strings.Contains(plan, "Sort") && what != "revoked" && what != "grants"
		if strings.Contains(plan, "Seq Scan") || sorts {
			t.Errorf("%s\n%s", what, plan)
		}
	})
}
