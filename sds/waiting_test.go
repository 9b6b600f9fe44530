package sds_test

import (
	"sync/atomic"
	"testing"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

// TestWaitingReasonIsOfNow: a proxy that asked before anybody knew why its certificate cannot be had shows the reason in the
// inventory as soon as there is one.
func TestWaitingReasonIsOfNow(t *testing.T) {
	var why atomic.Value
	why.Store("")
	f := start(t, func(c *sds.Config) { c.Why = func(spiffeid.ID) string { return why.Load().(string) } })
	s := f.sotw()
	s.ask(nil, "default")
	waits := func(reason string) {
		t.Helper()
		eventually(t, func() string {
			streams := f.server.Inventory().Snapshot().Streams
			if len(streams) != 1 || len(streams[0].Secrets) != 1 {
				return "not in the inventory"
			}
			if got := streams[0].Secrets[0].Waiting; got != reason {
				return "waiting: " + got
			}
			return ""
		})
	}
	waits("no certificate for " + payment + " yet")
	why.Store("permission denied")
	waits("permission denied")
}
