package ca_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/testkit/memstore"
)

// TestStoreThatTakesNothing: a full disk is an alarm, so that readiness is not the only one to know; a full queue passes by
// itself and is none.
func TestStoreThatTakesNothing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		err   error
		alarm bool
	}{
		{"full disk", fmt.Errorf("%w: no space left on device", ca.ErrUnavailable), true},
		{"full queue", fmt.Errorf("%w: 4096 changes wait", ca.ErrOverloaded), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newAuthority(t)
			ap := b.approve(t, order, 0)
			b.store.Inject(func(op string) memstore.Fault {
				if op == "Begin" {
					return memstore.Fault{Before: test.err}
				}
				return memstore.Fault{}
			})
			if _, err := b.Issue(t.Context(), ap); !errors.Is(err, test.err) {
				t.Fatal(err)
			}
			if got := alarmed(b.Authority, ca.AlarmLedger); got != test.alarm {
				t.Errorf("alarm %v, want %v", got, test.alarm)
			}
		})
	}
}
