package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

// refetchPause is a little more than the half minute that writ leaves between an identity provider's last answer and a
// fetch that an unknown key asks for.
const refetchPause = 31 * time.Second

// drill shows what an outage and a rotation of the identity provider do to tokens. It returns how many answers differ from
// what was expected, and takes half a minute, for writ does not ask for keys more often.
func (s *shop) drill(ctx context.Context, out io.Writer) (different int, err error) {
	pause := time.NewTimer(refetchPause)
	defer pause.Stop()
	const allowed, unknown = "allow coffee-shop/require-jwt[0]", "token_refused: key_unknown"
	row := func(kid, answer, why string) request {
		return request{"order-service", "customer-service", "GET", "/customers/7", "", "signed with " + kid, answer, why}
	}
	old, fresh := s.provider.KeyID("RS256"), ""
	for _, step := range []struct {
		say  string
		do   func()
		rows func() []request
	}{
		{
			"The identity provider is down. Its keys were fetched before, and stay in force:",
			func() { s.provider.Fail(testkit.FaultDown) },
			func() []request { return []request{row(old, "200 for alice", allowed)} },
		},
		{
			"It is back, signs with a new key and has withdrawn the old one. writ does not know yet, and asks again for an unknown\n" +
				"key, but only half a minute after the last time:",
			func() {
				s.provider.Fail(testkit.FaultNone)
				fresh = s.provider.Rotate("RS256")
				s.provider.Withdraw(old)
			},
			func() []request { return []request{row(old, "200 for alice", allowed), row(fresh, "401", unknown)} },
		},
		{
			"Half a minute later the new key counts, and the old one no longer does:",
			func() {
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
			},
			func() []request { return []request{row(fresh, "200 for alice", allowed), row(old, "401", unknown)} },
		},
	} {
		step.do()
		if ctx.Err() != nil {
			return different, ctx.Err()
		}
		fmt.Fprintf(out, "\n%s\n\n", step.say)
		n, err := s.rows(ctx, out, step.rows())
		if err != nil {
			return different, err
		}
		different += n
	}
	return different, nil
}
