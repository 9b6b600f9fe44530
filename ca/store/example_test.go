package store_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/store"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// A certificate is recorded before it is signed and after; the journal tells everything, and can be checked.
func Example() {
	dir, err := os.MkdirTemp("", "ledger-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	s, err := store.OpenSQLite(ctx, store.SQLiteConfig{Path: filepath.Join(dir, "ledger.db"), Create: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()

	id, err := spiffeid.Workload("cluster.local", "coffee-shop", "order")
	if err != nil {
		fmt.Println(err)
		return
	}
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	serial := ca.Serial{15: 1}
	err = s.Begin(ctx, ca.Intent{
		Serial: serial, ID: id, Issuer: "a1b2", Caller: "unix:root", Profile: "workload", TTLRule: "default",
		NotBefore: now.Add(-2 * time.Minute), NotAfter: now.Add(time.Hour), At: now,
	})
	fmt.Println("intent:", err)
	fmt.Println("outcome:", s.Finish(ctx, ca.Outcome{Serial: serial, Certificate: []byte("DER"), At: now}))
	fmt.Println("again:", s.Begin(ctx, ca.Intent{
		Serial: serial, ID: id, Issuer: "a1b2", Caller: "unix:root", NotBefore: now, NotAfter: now.Add(time.Hour), At: now,
	}))

	entries, _, err := s.Find(ctx, ca.Query{ID: id, LiveAt: now})
	for _, e := range entries {
		fmt.Println(e.State, e.ID, err)
	}
	records, err := s.Verify(ctx)
	fmt.Println(records, "records:", err)
	// Output:
	// intent: <nil>
	// outcome: <nil>
	// again: begin 00000000000000000000000000000001: the serial number is in the ledger already
	// issued spiffe://cluster.local/ns/coffee-shop/sa/order <nil>
	// 3 records: <nil>
}
