package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

const (
	you = "(you)"

	// stepPatience bounds one step of what happens in the mesh: renewals take half of identityTTL.
	stepPatience = 90 * time.Second

	// pollEvery is how often it is looked whether something has happened.
	pollEvery = 250 * time.Millisecond
)

// decisions are the acts that only ask.
func (s *shop) decisions() []act {
	return []act{
		{"Who calls? The certificate says so, and policies say who may call whom.", s.rows(callers)},
		{"Mutual TLS or nothing (STRICT), except at order-service, whose menu is for everybody (PERMISSIVE). payment-service's Envoy takes plaintext; writ does not.", s.rows(strangers)},
		{"For whom? The customer's token says so.", s.rows(customers)},
		{"A CUSTOM policy asks Rego at barista-service: is the shop open, and who gets the beans of the reserve?", s.rows(brewsWhileOpen)},
	}
}

// events are the acts in which something happens.
func (s *shop) events(t *traffic) []act {
	return []act{
		{"The shop closes, and opens again.", append(append(
			[]row{s.hours("close", 0, 0)}, s.rows(brewsWhileClosed)...),
			s.hours("open again", 0, 24), s.row(brewsWhileOpen[0]))},
		{"The customers' identity provider is down: the keys that writ has stay in force.", s.outage()},
		{"From here on customer-service orders all the time. Meanwhile certificates of " + identityTTL.String() + " are renewed …", []row{s.renewal(t)}},
		{"… and the root of all of them is replaced. A step is refused as long as it would cut somebody off: this takes half a minute.", s.rotation(t)},
		{"A till is stolen.", s.theft()},
		{"The identity provider signs with a new key since its outage. writ asks for a key that it does not know, twice a minute at most.", s.newKey()},
	}
}

// row makes a line of a request.
func (s *shop) row(r request) row {
	return row{r.caller, r.service, r.String(), r.answer, r.why, func(ctx context.Context) (string, string, error) { return s.send(ctx, r) }}
}

func (s *shop) rows(requests []request) []row {
	rows := make([]row, len(requests))
	for i, r := range requests {
		rows[i] = s.row(r)
	}
	return rows
}

// copyRego makes a copy of the Rego, for the hours of the demo are not those of the shop: this is day and night.
func (s *shop) copyRego(from string) error {
	if err := os.CopyFS(s.file("rego"), os.DirFS(from)); err != nil {
		return fmt.Errorf("-rego: %w (run this from the checkout, or name the directory)", err)
	}
	return s.setHours(0, 24)
}

func (s *shop) setHours(opens, closes int) error {
	text := fmt.Sprintf("# Opening hours, in UTC: the demo is open day and night, to begin with.\npackage hours\n\nopens := %d\n\ncloses := %d\n", opens, closes)
	return os.WriteFile(filepath.Join(s.file("rego"), "hours.rego"), []byte(text), 0o644)
}

// hours changes the opening hours, and waits until writ has seen it.
func (s *shop) hours(what string, opens, closes int) row {
	return row{you, "rego/hours.rego", what, "in force", "", func(ctx context.Context) (string, string, error) {
		mark := s.authority.Output.Mark()
		if err := s.setHours(opens, closes); err != nil {
			return "", "", err
		}
		ctx, cancel := context.WithTimeout(ctx, stepPatience)
		defer cancel()
		_, err := s.authority.Output.Wait(ctx, mark, func(line string) bool { return strings.Contains(line, `msg="policies loaded"`) })
		return "in force", fmt.Sprintf("opens := %d, closes := %d, without a restart", opens, closes), err
	}}
}

// outage takes the identity provider down and up again. It comes back with another key.
func (s *shop) outage() []row {
	ask := s.row(request{"order-service", "customer-service", "GET", "/customers/7", "", oldKey, "200 for alice", "allow coffee-shop/require-jwt[0]"})
	send := ask.try
	ask.try = func(ctx context.Context) (seen, why string, err error) {
		s.provider.Fail(testkit.FaultDown)
		seen, why, err = send(ctx)
		s.provider.Fail(testkit.FaultNone)
		s.signed[newKey] = s.provider.Rotate("RS256")
		s.provider.Withdraw(s.signed[oldKey])
		return seen, why, err
	}
	return []row{ask}
}

// newKey waits for writ to know the provider's new key.
func (s *shop) newKey() []row {
	fresh := request{"order-service", "customer-service", "GET", "/customers/7", "", newKey, "200 for alice", "allow coffee-shop/require-jwt[0]"}
	known := s.row(fresh)
	known.try = func(ctx context.Context) (string, string, error) { return s.sendUntil(ctx, fresh) }
	gone := request{"order-service", "customer-service", "GET", "/customers/7", "", oldKey, "401", "token_refused: key_unknown"}
	return []row{known, s.row(gone)}
}

// sendUntil repeats a request until it is answered as expected, or no longer.
func (s *shop) sendUntil(ctx context.Context, r request) (answer, why string, err error) {
	waiting, cancel := context.WithTimeout(ctx, stepPatience)
	defer cancel()
	for {
		answer, why, err = s.send(ctx, r)
		if err != nil || answer == r.answer && why == r.why || !pause(waiting) {
			return answer, why, err
		}
	}
}

// pause reports whether there is time for another look.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pollEvery):
		return true
	}
}

// meanwhile says what became of the orders since it was asked last. done is what is seen if none was lost.
func (t *traffic) meanwhile(done, why string) (seen, whole string) {
	orders, lost, first := t.take()
	if lost > 0 {
		return fmt.Sprintf("%d orders lost", lost), why + ", the first: " + first
	}
	return done, fmt.Sprintf("%s; %d orders meanwhile, none lost", why, orders)
}

// renewal starts the orders and waits until every Envoy has been given another certificate.
func (s *shop) renewal(t *traffic) row {
	return row{"every agent", "writ", "the next certificate", "renewed", "", func(ctx context.Context) (string, string, error) {
		if err := t.start(ctx, s); err != nil {
			return "", "", err
		}
		ctx, cancel := context.WithTimeout(ctx, stepPatience)
		defer cancel()
		began := time.Now()
		before := map[string]uint64{}
		for {
			renewed := 0
			for name, envoy := range s.sidecars {
				n, err := envoy.Counter(ctx, "sds.default.update_success")
				if err != nil {
					return "", "", err
				}
				if _, ok := before[name]; !ok {
					before[name] = n
				}
				if n > before[name] {
					renewed++
				}
			}
			why := fmt.Sprintf("%d of %d Envoys have it after %v, over SDS", renewed, len(s.sidecars), since(began))
			if renewed == len(s.sidecars) {
				seen, why := t.meanwhile("renewed", why)
				return seen, why, nil
			}
			if !pause(ctx) {
				return "not renewed", why, nil
			}
		}
	}}
}

func since(t time.Time) time.Duration { return time.Since(t).Round(100 * time.Millisecond) }

// rotation is all of a root rotation, never overridden.
func (s *shop) rotation(t *traffic) []row {
	var rows []row
	for _, step := range []struct{ name, is string }{
		{"prepare", "a new root is made, which nobody sees yet"},
		{"distribute", "the new root is trusted beside the old one"},
		{"activate", "the new root signs, now that every Envoy trusts it"},
		{"taint", "the old root is to go, now that all have renewed under the new one"},
		{"revoke", "only the new root is trusted"},
	} {
		rows = append(rows, row{you, "writ", "ca rotate " + step.name, "done", "", func(ctx context.Context) (string, string, error) {
			began := time.Now()
			refused, err := s.insist(ctx, "ca", "rotate", step.name, "-c", "writ.yaml")
			if err != nil {
				return "", "", err
			}
			why := step.is
			if refused {
				why += fmt.Sprintf(" (refused for %v)", since(began))
			}
			seen, why := t.meanwhile("done", why)
			return seen, why, nil
		}})
	}
	return rows
}

// insist runs a command until it is no longer refused, and reports whether it was.
func (s *shop) insist(ctx context.Context, args ...string) (refused bool, err error) {
	waiting, cancel := context.WithTimeout(ctx, stepPatience)
	defer cancel()
	for {
		_, err = s.run(ctx, args...)
		if !errors.Is(err, errRefused) || !pause(waiting) {
			return refused, err
		}
		refused = true
	}
}

// theft revokes the identity of a till that has a connection open.
func (s *shop) theft() []row {
	var till *http.Client
	ask := request{stolen, "order-service", "GET", "/healthz", "", "", "200", "allow coffee-shop/health[0]"}
	on := func(what string, answer, why string, last bool) row {
		return row{stolen, "order-service", ask.String() + what, answer, why, func(ctx context.Context) (seen, why string, err error) {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			if till == nil {
				if till, err = s.client(stolen, ask.service); err != nil {
					return "", "", err
				}
			}
			if last {
				defer till.CloseIdleConnections()
			}
			return s.sendHTTP(ctx, till, ask)
		}}
	}
	connect := request{stolen, "order-service", methodConnect, "", "", "", "refused", "handshake: revoked certificate"}
	again := s.row(connect)
	again.try = func(ctx context.Context) (string, string, error) { return s.sendUntil(ctx, connect) }
	revoke := row{you, "writ", "ca revoke --id …/" + stolen, "done", "", func(ctx context.Context) (string, string, error) {
		_, err := s.run(ctx, "ca", "revoke", "-c", "writ.yaml", "--id", serviceID(stolen), "--reason", "keyCompromise")
		return "done", "no certificate is issued for it any more", err
	}}
	return []row{
		on("", "200", "allow coffee-shop/health[0]", false),
		revoke,
		on("  (same connection)", "403", "revoked", true),
		again,
	}
}
