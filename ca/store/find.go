package store

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/writ-auth/writ/ca"
)

// Find returns a page of entries, newest first by their number in the journal, and the cursor of the next, empty at the
// end. Entries that come in between pages do not shift them. Every query is served by an index.
//
// LiveAt without an identity, key, caller or serial lists what expires last first: the order of issue, unless
// lifetimes differ. It takes no notice of when a certificate was made, so that a clock that was set back hides none;
// add Before to ask about the past. An entry shows its certificate's own revocation, else that of its key or identity
// if it is in force.
//
// What an entry says is read from the journal and checked against the hash of its record.
func (s *Store) Find(ctx context.Context, q ca.Query) (entries []ca.Entry, next string, err error) {
	limit, err := pageSize(q.Limit)
	if err != nil {
		return nil, "", fmt.Errorf("find: %w", err)
	}
	b, none, err := s.findQuery(ctx, q, limit)
	if err != nil {
		return nil, "", fmt.Errorf("find: %w", err)
	}
	if none {
		return nil, "", nil
	}
	var last cursor
	more := false
	err = s.query(ctx, b.sql.String(), b.args, func(scan func(...any) error) error {
		if len(entries) == limit {
			more = true
			return nil
		}
		var row entryRow
		if err := scan(row.dest()...); err != nil {
			return err
		}
		e, err := row.entry()
		if err != nil {
			return err
		}
		entries = append(entries, e)
		last = cursor{byExpiry: byExpiry(q), seq: *row.intent.seq, expiry: e.NotAfter.UnixMicro()}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("find: %w", err)
	}
	if more {
		next = last.String()
	}
	return entries, next, nil
}

// byExpiry reports whether a query is ordered by expiry: live ones among all, or all of an issuer, are found that way
// without looking at those that have expired.
func byExpiry(q ca.Query) bool {
	return !q.LiveAt.IsZero() && q.ID.IsZero() && q.Serial == ca.Serial{} && q.Caller == "" && q.KeyHash == [32]byte{}
}

const (
	openState = "0" // stateIntended
	liveState = "1" // stateIssued
)

// findQuery writes the SQL of a query. none: it is clear without asking that nothing is found.
func (s *Store) findQuery(ctx context.Context, q ca.Query, limit int) (b *builder, none bool, err error) {
	b = new(builder)
	if q.Open && !q.LiveAt.IsZero() {
		return b, true, nil // what is live has an outcome
	}
	now := s.now().UnixMicro()
	b.add(`SELECT `+recordColumns("i")+`, `+recordColumns("o")+`,
			rs.serial,
			CASE WHEN rs.number IS NULL AND rk.number IS NULL THEN ri.id END,
			CASE WHEN rs.number IS NULL THEN rk.key_hash END,
			COALESCE(rs.at, rk.at, ri.at), COALESCE(rs.until_at, rk.until_at, ri.until_at),
			COALESCE(rs.reason, rk.reason, ri.reason), COALESCE(rs.by_whom, rk.by_whom, ri.by_whom)
		FROM certificates c
		JOIN journal i ON i.seq = c.seq
		LEFT JOIN journal o ON o.seq = c.outcome
		LEFT JOIN revocations rs ON rs.serial = c.serial
		LEFT JOIN revocations rk ON rk.key_hash = c.key_hash AND rk.lifted = 0 AND rk.until_at > `, arg{now}, `
		LEFT JOIN revocations ri ON ri.id = c.id AND ri.lifted = 0 AND ri.until_at > `, arg{now}, ` WHERE c.seq > 0`)
	if !q.ID.IsZero() {
		b.add(` AND c.id = `, arg{q.ID.String()})
	}
	if (q.Serial != ca.Serial{}) {
		b.add(` AND c.serial = `, arg{q.Serial[:]})
	}
	if q.Caller != "" {
		b.add(` AND c.caller = `, arg{q.Caller})
	}
	if q.Issuer != "" {
		b.add(` AND c.issuer = `, arg{q.Issuer})
	}
	if q.KeyHash != [32]byte{} {
		b.add(` AND c.key_hash = `, arg{q.KeyHash[:]})
	}
	if q.Open {
		b.add(` AND c.state = ` + openState)
	}
	if !q.LiveAt.IsZero() {
		at := arg{q.LiveAt.UnixMicro()}
		b.add(` AND c.not_after > `, at, ` AND c.state = `+liveState+`
			AND NOT COALESCE(rs.at <= `, at, `, FALSE)
			AND NOT EXISTS (SELECT 1 FROM revocations r WHERE r.key_hash = c.key_hash AND r.lifted = 0 AND r.at <= `, at, ` AND r.until_at > `, at, `)
			AND NOT EXISTS (SELECT 1 FROM revocations r WHERE r.id = c.id AND r.lifted = 0 AND r.at <= `, at, ` AND r.until_at > `, at, `)`)
	}
	seq := "c.seq"
	if byExpiry(q) {
		seq = "+c.seq" // not for the planner: it would read the range and sort, instead of what is live
	}
	if none, err = s.between(ctx, b, spansCertificate, "c.at", seq, q.After, q.Before); err != nil || none {
		return nil, none, err
	}
	if err := b.page(q); err != nil {
		return nil, false, err
	}
	b.limit(limit + 1)
	return b, false, nil
}

// page adds the order, and where the last page ended.
func (b *builder) page(q ca.Query) error {
	at, err := parseCursor(q.Cursor, byExpiry(q))
	if err != nil {
		return err
	}
	switch {
	case byExpiry(q):
		if q.Cursor != "" {
			b.add(` AND (c.not_after, c.seq) < (`, arg{at.expiry}, `, `, arg{at.seq}, `)`)
		}
		b.add(` ORDER BY c.not_after DESC, c.seq DESC`)
	default:
		if q.Cursor != "" {
			b.add(` AND c.seq < `, arg{at.seq})
		}
		b.add(` ORDER BY c.seq DESC`)
	}
	return nil
}

// between restricts the columns at and seq to a time range: seq by the spans that the range touches, which is what an
// index finds, and at by the time itself. none: no span does.
func (s *Store) between(ctx context.Context, b *builder, kind, at, seq string, after, before time.Time) (none bool, err error) {
	if after.IsZero() && before.IsZero() {
		return false, nil
	}
	var sb builder
	sb.add(`SELECT min(first_seq), max(last_seq) FROM spans WHERE kind = `, arg{kind})
	if !after.IsZero() {
		sb.add(` AND span >= `, arg{span(after)})
		b.add(` AND `+at+` >= `, arg{ceil(after)})
	}
	if !before.IsZero() {
		sb.add(` AND span <= `, arg{span(before)})
		b.add(` AND `+at+` < `, arg{ceil(before)})
	}
	var first, last *int64
	err = s.query(ctx, sb.sql.String(), sb.args, func(scan func(...any) error) error { return scan(&first, &last) })
	if err != nil || first == nil {
		return true, err
	}
	b.add(` AND `+seq+` BETWEEN `, arg{*first}, ` AND `, arg{*last})
	return false, nil
}

// ceil is t in microseconds, rounded up: for times that were rounded down, "not before t" means the same with it.
func ceil(t time.Time) int64 {
	return t.Add(time.Microsecond - 1).UnixMicro()
}

// recordColumns names the columns that recordRow reads.
func recordColumns(t string) string {
	return t + ".seq, " + t + ".at, " + t + ".kind, " + t + ".body, " + t + ".prev, " + t + ".hash"
}

// recordRow is a record as it is read; all fields are NULL where an outer join found none.
type recordRow struct {
	seq, at          *int64
	kind             *string
	body, prev, hash []byte
}

func (r *recordRow) dest() []any { return []any{&r.seq, &r.at, &r.kind, &r.body, &r.prev, &r.hash} }

func (r *recordRow) record() (record, error) {
	out := record{seq: *r.seq, at: *r.at, kind: *r.kind, body: r.body}
	if copy(out.prev[:], r.prev) != len(out.prev) || copy(out.hash[:], r.hash) != len(out.hash) {
		return out, fmt.Errorf("record %d of the journal is damaged: its hashes are %d and %d bytes", out.seq, len(r.prev), len(r.hash))
	}
	return out, nil
}

func (r *recordRow) decode(kind string, into any) error {
	rec, err := r.record()
	if err != nil {
		return err
	}
	return rec.decode(kind, into)
}

// entryRow is a row of findQuery.
type entryRow struct {
	intent  recordRow
	outcome recordRow
	revoked revocationRow
}

func (r *entryRow) dest() []any {
	return append(append(r.intent.dest(), r.outcome.dest()...), r.revoked.dest()...)
}

func (r *entryRow) entry() (ca.Entry, error) {
	var i intentBody
	if err := r.intent.decode(kindIntent, &i); err != nil {
		return ca.Entry{}, err
	}
	e := ca.Entry{State: ca.StateIntended, Intent: ca.Intent{
		Serial: ca.Serial(i.Serial), ID: i.ID, Issuer: i.Issuer, Caller: i.Caller, Profile: i.Profile, TTLRule: i.TTLRule,
		KeyHash: i.KeyHash, NotBefore: i.NotBefore, NotAfter: i.NotAfter, At: i.At,
	}}
	var err error
	if e.Revoked, err = r.revoked.revocation(); err != nil || r.outcome.seq == nil {
		return e, err
	}
	var o outcomeBody
	if err := r.outcome.decode(kindOutcome, &o); err != nil {
		return ca.Entry{}, err
	}
	if o.Serial != i.Serial {
		return ca.Entry{}, fmt.Errorf("record %d of the journal is the outcome of serial %x, not of %x", *r.outcome.seq, o.Serial, i.Serial)
	}
	e.State, e.Certificate, e.Failure = ca.StateIssued, o.Certificate, o.Failure
	if o.Failure != "" {
		e.State = ca.StateFailed
	}
	return e, nil
}

// cursor is where a page ended.
type cursor struct {
	byExpiry    bool
	seq, expiry int64
}

func (c cursor) String() string {
	text := "s" + strconv.FormatInt(c.seq, 10)
	if c.byExpiry {
		text = "e" + strconv.FormatInt(c.seq, 10) + "." + strconv.FormatInt(c.expiry, 10)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(text))
}

var errCursor = errors.New("the cursor is not one of this query")

func parseCursor(text string, byExpiry bool) (cursor, error) {
	c := cursor{byExpiry: byExpiry}
	if text == "" {
		return c, nil
	}
	if len(text) > 64 {
		return c, errCursor
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return c, errCursor
	}
	seq, expiry, _ := strings.Cut(strings.TrimLeft(string(b), "se"), ".")
	c.seq, err = strconv.ParseInt(seq, 10, 64)
	if err == nil && byExpiry {
		c.expiry, err = strconv.ParseInt(expiry, 10, 64)
	}
	if err != nil || c.String() != text {
		return c, errCursor
	}
	return c, nil
}

// builder writes SQL with numbered parameters.
type builder struct {
	sql  strings.Builder
	args []any
}

// arg is a value for [builder.add], where a string is SQL.
type arg struct{ value any }

func (b *builder) add(parts ...any) {
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b.sql.WriteString(p)
		case arg:
			b.args = append(b.args, p.value)
			b.sql.WriteString("$" + strconv.Itoa(len(b.args)))
		}
	}
}

// limit adds a number, not a parameter: SQLite would prepare the statement anew whenever one is bound there.
func (b *builder) limit(n int) { b.add(` LIMIT ` + strconv.Itoa(n)) }
