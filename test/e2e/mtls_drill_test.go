package e2e_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

// renewals is how many renewals the drill goes through: three, or what WRIT_RENEWALS says.
func renewals(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("WRIT_RENEWALS")
	if text == "" {
		return 3
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n < 1 {
		t.Fatalf("WRIT_RENEWALS=%q: want a number of renewals", text)
	}
	return n
}

// TestMutualTLSDrill has two real Envoys speak mutual TLS by what their agents give them, one over SotW and one over delta,
// under all kinds of traffic that never pauses: through renewals, a whole rotation of the root without an override, the
// death of the authority that issues and decides, and the death of either agent. No request fails, and no handshake.
func TestMutualTLSDrill(t *testing.T) {
	t.Parallel()
	d := newDrill(t)
	began := time.Now()
	d.traffic = startTraffic(t, d.caller)
	d.rotateRoot()
	d.killAuthority()
	d.killAgents()
	for d.renewed() < renewals(t) {
		d.receive("more renewals", 1, d.caller, d.server)
	}
	d.checkCounters()
	d.traffic.end(t)
	t.Logf("%d renewals of each Envoy, one rotation, an authority and two agents killed, in %v", d.renewed(), time.Since(began).Round(time.Second))
}

// drill is two authorities on one ledger, and two Envoys with an agent each.
type drill struct {
	*mesh
	one, two                 unit // authorities; agents and Envoys prefer the first
	first                    *testkit.Authority
	callerAgent, serverAgent *testkit.Agent
	callerUnit, serverUnit   unit
	caller, server           *testkit.Envoy
	traffic                  *traffic
}

func newDrill(t *testing.T) *drill {
	t.Helper()
	postgres, err := testkit.StartPostgres(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(postgres.Stop)
	d := &drill{mesh: newMesh(t)}
	d.write("dsn", postgres.DSN)
	d.write("passphrase", "correct horse battery")
	addresses := []string{freeAddress(t), freeAddress(t)}
	const ledger = "store: {postgres: {dsn_file: ./dsn}}"
	settings := fmt.Sprintf(", default_ttl: %v, max_ttl: %[1]v, key_encryption: {passphrase_file: ./passphrase}", mtlsTTL)
	d.one, d.two = d.configure("one", addresses[0], ledger, settings), d.configure("two", addresses[1], ledger, settings)
	d.one.do("ca", "init")
	d.first = d.one.serve()
	d.two.serve()
	d.write("root.pem", d.one.do("ca", "bundle"))

	d.callerUnit = d.agent("caller", d.one, addresses, []string{"spiffe://cluster.local/node/caller", orderID}, ours(orderID))
	d.serverUnit = d.agent("server", d.one, addresses, []string{"spiffe://cluster.local/node/server", paymentID}, ours(paymentID))
	d.callerAgent, d.serverAgent = d.callerUnit.ready(), d.serverUnit.ready()
	authz := []string{d.file("one-authz.sock"), d.file("two-authz.sock")}
	d.server = d.proxy("server", "server", proxy{SDS: "server.sock", HTTP: service(t), TCP: database(t), Authz: authz})
	d.caller = d.proxy("caller", "client", proxy{
		SDS: "caller.sock", HTTP: d.server.Listener("http"), TCP: d.server.Listener("tcp"), Peer: paymentID, Protocol: "DELTA_GRPC",
	})
	return d
}

// renewed is how many certificates both Envoys have received after their first.
func (d *drill) renewed() uint64 { return min(d.updates(d.caller), d.updates(d.server)) - 1 }

// receive waits for each of the Envoys to get n more certificates.
func (d *drill) receive(when string, n uint64, envoys ...*testkit.Envoy) {
	d.t.Helper()
	for _, envoy := range envoys {
		target := d.updates(envoy) + n
		eventuallyWithin(d.t, time.Duration(n)*mtlsTTL+patience, fmt.Sprintf("%s: %d certificates more at %s", when, n, envoy.Name), func() error {
			wait(d.t.Context(), pieceEvery) // to ask Envoy is work for it
			if now := d.updates(envoy); now < target {
				return fmt.Errorf("%d are missing", target-now)
			}
			return nil
		})
	}
}

// updates is how often Envoy got a certificate.
func (d *drill) updates(envoy *testkit.Envoy) uint64 {
	return d.counters(envoy)["sds.default.update_success"]
}

// counters are those of an Envoy that has other things to do, too.
func (d *drill) counters(envoy *testkit.Envoy) (counters map[string]uint64) {
	d.t.Helper()
	eventually(d.t, "counters of "+envoy.Name, func() (err error) {
		counters, err = envoy.Counters(d.t.Context())
		return err
	})
	return counters
}

// rotateRoot goes through a rotation, each step once the evidence for it is there, which comes from the Envoys' ACKs.
func (d *drill) rotateRoot() {
	d.t.Helper()
	before := d.one.do("ca", "bundle")
	for _, step := range []string{"prepare", "distribute", "activate", "taint", "revoke"} {
		asked := time.Now()
		d.one.rotate(step)
		d.t.Logf("%s after %v", step, time.Since(asked).Round(100*time.Millisecond))
		d.traffic.waitFor(d.t, 50)
	}
	eventually(d.t, "the new root alone, at the other authority", func() error {
		if after := d.two.do("ca", "bundle"); strings.Count(after, "BEGIN CERTIFICATE") != 1 || after == before {
			return errors.New(after)
		}
		return nil
	})
	if audit := d.one.do("ca", "list", "--audit", "--limit", "1000"); strings.Contains(audit, "override ") {
		d.t.Errorf("a step was overridden:\n%s", audit)
	}
	// Everybody has the new root alone, and says so.
	eventually(d.t, "the last bundle everywhere", func() error {
		s, err := d.one.status()
		for _, f := range s.CA.Followers {
			if f.Bundle != s.CA.Bundle {
				err = errors.Join(err, fmt.Errorf("%s has version %d of %d", f.Name, f.Bundle, s.CA.Bundle))
			}
		}
		if len(s.CA.Followers) == 0 {
			err = errors.Join(err, errors.New("nobody follows the bundle"))
		}
		return err
	})
}

// killAuthority ends the authority that everybody prefers. The other one decides, and issues, until it is back.
func (d *drill) killAuthority() {
	d.t.Helper()
	before, err := d.two.status()
	if err != nil {
		d.t.Fatal(err)
	}
	d.first.Kill()
	d.receive("without the first authority", 1, d.caller, d.server)
	d.traffic.waitFor(d.t, 50)
	after, err := d.two.status()
	if err != nil {
		d.t.Fatal(err)
	}
	decided, issued := after.decided()-before.decided(), after.issued()-before.issued()
	if decided < 50 || issued < 2 {
		d.t.Errorf("the second authority decided %d requests and issued %d certificates while the first was gone", decided, issued)
	}
	d.t.Logf("without the first authority the second decided %d requests and issued %d certificates", decided, issued)
	d.first = d.one.serve()
}

// killAgents ends one agent and then the other. What its Envoy has goes on working, and is renewed once the agent is back.
func (d *drill) killAgents() {
	d.t.Helper()
	for _, each := range []struct {
		envoy *testkit.Envoy
		agent **testkit.Agent
		unit  unit
	}{{d.caller, &d.callerAgent, d.callerUnit}, {d.server, &d.serverAgent, d.serverUnit}} {
		d.receive("before its agent is killed", 1, each.envoy) // so that what it has then lives for a while
		(*each.agent).Kill()
		d.traffic.waitFor(d.t, 100)
		*each.agent = each.unit.start()
		d.receive("with its agent back", 1, each.envoy)
	}
}

// checkCounters holds the Envoys' own counters against the drill: updates arrived and were used, nothing was rejected, no
// handshake and no connection failed.
func (d *drill) checkCounters() {
	d.t.Helper()
	renewed := d.renewed()
	for _, envoy := range []*testkit.Envoy{d.caller, d.server} {
		counters := d.counters(envoy)
		got := map[string]uint64{}
		for _, name := range slices.Sorted(maps.Keys(counters)) {
			short := name[strings.LastIndex(name, ".")+1:]
			switch short {
			case "connection_error", "fail_verify_error", "fail_verify_no_cert", "fail_verify_san", "fail_verify_cert_hash",
				"update_rejected", "key_rotation_failed", "upstream_cx_connect_fail", "upstream_cx_connect_timeout",
				"downstream_context_secrets_not_ready", "upstream_context_secrets_not_ready":
				// The connections to authorities and agents that were killed are not those of the drill.
				if n := counters[name]; n > 0 && !strings.HasPrefix(name, "cluster.authz.") && !strings.HasPrefix(name, "cluster.sds.") {
					d.t.Errorf("%s counts %d of %s", envoy.Name, n, name)
				}
			case "update_success", "ssl_context_update_by_sds", "handshake":
				got[short] += counters[name]
			}
		}
		roots := counters["sds.ROOTCA.update_success"]
		if got["ssl_context_update_by_sds"] < renewed || roots < 4 || got["handshake"] < 10*renewed {
			d.t.Errorf("%s counts too little: %v, of the roots %d", envoy.Name, got, roots)
		}
		d.t.Logf("%s: sds.default.update_success %d, sds.ROOTCA.update_success %d, ssl_context_update_by_sds %d, handshakes %d",
			envoy.Name, counters["sds.default.update_success"], roots, got["ssl_context_update_by_sds"], got["handshake"])
	}
}
