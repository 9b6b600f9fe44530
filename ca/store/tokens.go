package store

import (
	"context"
	"fmt"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	selectToken = `SELECT seq FROM tokens WHERE hash = $1` //nolint:gosec // SQL, no credential
	insertToken = `INSERT INTO tokens (hash, seq, body) VALUES ($1, $2, $3)`
	deleteToken = `DELETE FROM tokens WHERE hash = $1`
	insertGrant = `INSERT INTO grants (seq, hash, id) VALUES ($1, $2, $3)`

	// presentToken finds the record of a token: of its making while it is unused, else of its use. There is none for a key
	// of which a certificate was revoked.
	//
	//nolint:gosec // SQL, no credential
	presentToken = `SELECT seq, at, kind, body, prev, hash FROM journal WHERE seq = COALESCE(
		(SELECT seq FROM tokens WHERE hash = $1),
		(SELECT max(g.seq) FROM grants g WHERE g.hash = $1 AND NOT EXISTS (
			SELECT 1 FROM certificates c JOIN revocations r ON r.serial = c.serial WHERE c.key_hash = $2)))`

	selectGrants = `SELECT id FROM grants WHERE hash = $1 ORDER BY id`
)

// PutToken keeps a join token until it is taken. [ca.ErrConflict] when its hash is kept already.
func (s *Store) PutToken(ctx context.Context, t ca.Token) error {
	if err := checkToken(t); err != nil {
		return fmt.Errorf("join token: %w", err)
	}
	var seq int64
	ask := &statement{sql: selectToken, args: []any{t.Hash[:]}, dest: []any{&seq}}
	err := s.submit(ctx, []string{"token " + string(t.Hash[:])}, ask, func() verdict {
		if ask.rows > 0 {
			return refuse(fmt.Errorf("%w: it exists", ca.ErrConflict))
		}
		r, err := newRecord(kindToken, tokenBody{
			Hash: t.Hash, IDs: t.IDs, Node: t.Node, Expires: whole(t.Expires), Created: whole(t.Created), By: t.By,
		})
		if err != nil {
			return refuse(err)
		}
		return verdict{record: r, rows: func(seq int64) []*statement {
			return []*statement{{sql: insertToken, args: []any{t.Hash[:], seq, r.body}}}
		}}
	})
	if err != nil {
		return fmt.Errorf("put join token: %w", err)
	}
	return nil
}

// TakeToken uses a join token: it binds it to a key, deletes it and returns it. The same key may present it again until it
// expires, for the answer may be lost on its way, and gets the same; a certificate of the key that was revoked ends that.
// Whoever presents one that another key has used, has expired or never was gets the same [ca.ErrNotFound], after one
// synced write in every case: neither the answer nor its time tells them apart. A token that has expired is gone as well.
func (s *Store) TakeToken(ctx context.Context, hash, key [32]byte, now time.Time) (ca.Token, error) {
	if err := moment("time", now); err != nil {
		return ca.Token{}, fmt.Errorf("take join token: %w", err)
	}
	var row recordRow
	var token tokenBody
	ask := &statement{sql: presentToken, args: []any{hash[:], key[:]}, dest: row.dest()}
	err := s.submit(ctx, []string{"token " + string(hash[:])}, ask, func() (v verdict) {
		v = verdict{miss: true, err: fmt.Errorf("join token: %w", ca.ErrNotFound)}
		switch {
		case ask.rows == 0:
		case *row.kind == kindUsed:
			var used takenBody
			if row.decode(kindUsed, &used) == nil && used.admits(hash, key, now) { // damaged: Verify tells
				token, v = used.tokenBody, verdict{}
			}
		case row.decode(kindToken, &token) != nil || token.Hash != hash:
		case !now.Before(token.Expires):
			v = tokenGone(kindExpired, takenBody{tokenBody: token, At: whole(now)}, v.err)
		default:
			v = tokenGone(kindUsed, takenBody{tokenBody: token, Key: key, At: whole(now)}, nil)
		}
		return v
	})
	if err != nil {
		return ca.Token{}, err
	}
	return ca.Token{Hash: hash, IDs: token.IDs, Node: token.Node, Expires: token.Expires, Created: token.Created, By: token.By}, nil
}

// admits reports whether the key that used the token presents it again, in time. A use without a key, or by a writ that
// did not record one, was the only one.
func (b *takenBody) admits(hash, key [32]byte, now time.Time) bool {
	return b.Hash == hash && b.Key == key && b.Key != sum{} && now.Before(b.Expires)
}

// tokenGone records that a token is gone, and what it grants when it was good.
func tokenGone(kind string, b takenBody, answer error) verdict {
	r, err := newRecord(kind, b)
	if err != nil {
		return refuse(err)
	}
	return verdict{record: r, err: answer, rows: func(seq int64) []*statement {
		rows := []*statement{{sql: deleteToken, args: []any{b.Hash[:]}}}
		if kind != kindUsed {
			return rows
		}
		for _, id := range b.IDs {
			rows = append(rows, &statement{sql: insertGrant, args: []any{seq, b.Hash[:], id.String()}})
		}
		return rows
	}}
}

// Grants returns, sorted, the identities of a join token that was used; none when there was no such token.
func (s *Store) Grants(ctx context.Context, hash [32]byte) ([]spiffeid.ID, error) {
	var out []spiffeid.ID
	err := s.query(ctx, selectGrants, []any{hash[:]}, func(scan func(...any) error) error {
		var text string
		if err := scan(&text); err != nil {
			return err
		}
		granted, err := spiffeid.Parse(text)
		out = append(out, granted)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("grants of a join token: %w", err)
	}
	return out, nil
}
