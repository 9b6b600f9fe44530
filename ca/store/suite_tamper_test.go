package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
)

// testVerifyTampered: whatever is changed behind the store's back, Verify says so, and where.
func testVerifyTampered(t *testing.T, p place) {
	s := p.open(t)
	for n := range 5 { // records 2 to 61, twelve each
		if err := everyChange(t, s, n); err != nil {
			t.Fatal(err)
		}
	}
	verify(t, s, 61)
	// Records of the second round: 14 intent, 15 outcome, 16-18 tokens, 19 revoked, 20 revoked, 21 unrevoked, 22 state,
	// 23 event, 24 token_used, 25 token_expired.
	for _, test := range []struct {
		tamper, undo string
		good         int64 // records before the break; -1 = it is not in a record
		want         string
	}{
		{`UPDATE journal SET at = at + 1 WHERE seq = 20`, `UPDATE journal SET at = at - 1 WHERE seq = 20`, 19, "record 20 of the journal does not match its hash"},
		{`UPDATE journal SET kind = 'event' WHERE seq = 15`, `UPDATE journal SET kind = 'outcome' WHERE seq = 15`, 14, "record 15 of the journal does not match its hash"},
		{`UPDATE journal SET hash = prev WHERE seq = 30`, ``, 29, "record 30 of the journal does not match its hash"},
		{`UPDATE journal SET hash = (SELECT prev FROM journal WHERE seq = 31) WHERE seq = 30`, ``, -1, ""}, // puts it right
		{`UPDATE journal SET prev = hash WHERE seq = 1`, ``, 0, "record 1 of the journal does not continue record 0"},
		{`UPDATE journal SET prev = (SELECT hash FROM head) WHERE seq = 1`, ``, 0, "record 1 of the journal does not continue record 0"},
		{`UPDATE journal SET prev = ZERO WHERE seq = 1`, ``, -1, ""},
		{`UPDATE journal SET seq = 1000 WHERE seq = 25`, `UPDATE journal SET seq = 25 WHERE seq = 1000`, 24, "record 25 of the journal is missing"},
		{`UPDATE journal SET seq = 1000 WHERE seq = 61`, `UPDATE journal SET seq = 61 WHERE seq = 1000`, 60, "record 61 of the journal is missing"},
		{`UPDATE head SET seq = 60`, `UPDATE head SET seq = 61`, 59, "record 60 of the journal is not the one that its head names"},
		{`UPDATE head SET seq = 62`, `UPDATE head SET seq = 61`, 61, "record 62 of the journal is missing"},

		{`UPDATE certificates SET id = 'spiffe://cluster.local/x' WHERE seq = 14`, `UPDATE certificates SET id = 'spiffe://cluster.local/ns/coffee-shop/sa/w1' WHERE seq = 14`, 13, "says something else of serial"},
		{`UPDATE certificates SET not_after = not_after - 1 WHERE seq = 26`, `UPDATE certificates SET not_after = not_after + 1 WHERE seq = 26`, 25, "says something else of serial"},
		{`UPDATE certificates SET state = 2 WHERE seq = 14`, `UPDATE certificates SET state = 1 WHERE seq = 14`, 13, "in state 2, its outcome says 1"},
		{`UPDATE certificates SET outcome = 3 WHERE seq = 14`, `UPDATE certificates SET outcome = 15 WHERE seq = 14`, 13, "record 3 is not the outcome"},
		{`UPDATE certificates SET state = 0, outcome = NULL WHERE seq = 14`, `UPDATE certificates SET state = 1, outcome = 15 WHERE seq = 14`, 61, "there are 4 outcomes, the journal makes 5"},
		{`UPDATE certificates SET seq = 15 WHERE seq = 14`, `UPDATE certificates SET seq = 14 WHERE seq = 15`, 13, "missing from the table of certificates"},
		{`UPDATE certificates SET seq = 1000 WHERE seq = 14`, `UPDATE certificates SET seq = 14 WHERE seq = 1000`, 13, "missing from the table of certificates"},

		{`UPDATE spans SET last_seq = 13 WHERE kind = 'certificate'`, `UPDATE spans SET last_seq = 61 WHERE kind = 'certificate'`, 13, "not in the table of spans"},
		{`UPDATE spans SET first_seq = 12 WHERE kind = 'event'`, `UPDATE spans SET first_seq = 11 WHERE kind = 'event'`, 10, "not in the table of spans"},
		{`UPDATE events SET at = at + 1 WHERE seq = 23`, `UPDATE events SET at = at - 1 WHERE seq = 23`, 22, "missing from the table of events"},
		{`INSERT INTO events (seq, at) VALUES (24, 0)`, `DELETE FROM events WHERE seq = 24`, 61, "there are 6 events, the journal makes 5"},

		{`UPDATE tokens SET seq = 17 WHERE seq = 18`, `UPDATE tokens SET seq = 18 WHERE seq = 17`, 61, "is not the one that was recorded"},
		{`UPDATE tokens SET body = (SELECT body FROM journal WHERE seq = 1) WHERE seq = 18`, `UPDATE tokens SET body = (SELECT body FROM journal WHERE seq = 18) WHERE seq = 18`, 61, "is not the one that was recorded"},
		{`UPDATE grants SET id = 'spiffe://cluster.local/x' WHERE seq = 24 AND id LIKE '%/1'`, `UPDATE grants SET id = 'spiffe://cluster.local/n/1' WHERE id = 'spiffe://cluster.local/x'`, 23, "the table of grants"},
		{`INSERT INTO grants (seq, hash, id) SELECT 2, hash, 'spiffe://cluster.local/x' FROM grants WHERE seq = 24 AND id LIKE '%/1'`, `DELETE FROM grants WHERE seq = 2`, 61, "there are 11 grants, the journal makes 10"},

		{`UPDATE revocations SET lifted = 1 WHERE number = 19`, `UPDATE revocations SET lifted = 0 WHERE number = 19`, 18, "table of revocations says something else"},
		{`UPDATE revocations SET lifted = 0 WHERE number = 20`, `UPDATE revocations SET lifted = 1 WHERE number = 20`, 20, "table of revocations says something else"},
		{`UPDATE revocations SET until_at = 1 WHERE number = 19`, `UPDATE revocations SET until_at = 1785585611000000 WHERE number = 19`, 18, "table of revocations says something else"},
		{`UPDATE revocations SET id = 'x' WHERE number = 20`, `UPDATE revocations SET id = 'spiffe://cluster.local/n/1' WHERE number = 20`, 19, "table of revocations does not have it"},

		{`UPDATE state SET value = key_of_thief WHERE seq = 22`, ``, 21, "not the one that was recorded"},
		{`UPDATE state SET value = right_value WHERE seq = 22`, ``, -1, ""},
		{`UPDATE state SET version = 2 WHERE seq = 22`, `UPDATE state SET version = 1 WHERE seq = 22`, 21, "not the one that was recorded"},
		{`UPDATE state SET name = 'other' WHERE seq = 22`, `UPDATE state SET name = 'key 1' WHERE seq = 22`, 21, "not the one that was recorded"},
	} {
		p.tamper(t, p.dialect(test.tamper))
		n, err := s.Verify(t.Context())
		switch {
		case test.good == -1:
			if err != nil {
				t.Fatalf("%s: %v", test.tamper, err)
			}
			continue
		case err == nil || !strings.Contains(err.Error(), test.want) || n != test.good:
			t.Errorf("%s: %d records, %v, want %d and %q", test.tamper, n, err, test.good, test.want)
		}
		if test.undo != "" {
			p.tamper(t, p.dialect(test.undo))
			verify(t, s, 61)
		}
	}

	// What is read is checked as well, without Verify.
	p.tamper(t, p.dialect(`UPDATE journal SET at = at + 1 WHERE seq IN (14, 23); UPDATE state SET value = key_of_thief WHERE seq = 22`))
	if _, _, err := s.Find(t.Context(), ca.Query{}); err == nil || !strings.Contains(err.Error(), "record 14 of the journal is damaged") {
		t.Errorf("find: %v", err)
	}
	if _, err := s.Events(t.Context(), time.Time{}, time.Time{}, 0); err == nil || !strings.Contains(err.Error(), "record 23 of the journal is damaged") {
		t.Errorf("events: %v", err)
	}
	if v, _, err := s.Get(t.Context(), "key 1"); err == nil || v != nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("get: %q, %v", v, err)
	}
}

// testAppendOnly: the tables refuse to forget, whoever asks.
func testAppendOnly(t *testing.T, p place) {
	s := p.open(t)
	issue(t, s, 0, 2)
	for _, sql := range []string{
		`UPDATE journal SET at = 0`, `DELETE FROM journal`, `DELETE FROM journal WHERE seq = 5`,
		`DELETE FROM certificates`, `UPDATE certificates SET id = 'x'`, `UPDATE certificates SET serial = key_hash`,
	} {
		if err := p.exec(t, sql); err == nil || !strings.Contains(err.Error(), "append only") && !strings.Contains(err.Error(), "ledger") {
			t.Errorf("%s: %v", sql, err)
		}
	}
	verify(t, s, 5)
}
