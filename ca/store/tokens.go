package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	selectToken = `SELECT seq FROM tokens WHERE hash = $1` //nolint:gosec // SQL, no credential
	insertToken = `INSERT INTO tokens (hash, seq, body) VALUES ($1, $2, $3)`
	takeToken   = `DELETE FROM tokens WHERE hash = $1 RETURNING body`
	insertGrant = `INSERT INTO grants (seq, hash, id) VALUES ($1, $2, $3)`

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

// TakeToken deletes a join token and returns it, exactly once. Whoever presents one that was used, has expired or
// never was gets the same [ca.ErrNotFound], after one synced write in every case: neither the answer nor its time
// tells them apart. A token that has expired is gone as well.
func (s *Store) TakeToken(ctx context.Context, hash [32]byte, now time.Time) (ca.Token, error) {
	if err := moment("time", now); err != nil {
		return ca.Token{}, fmt.Errorf("take join token: %w", err)
	}
	var body []byte
	var token tokenBody
	ask := &statement{sql: takeToken, args: []any{hash[:]}, dest: []any{&body}}
	err := s.submit(ctx, []string{"token " + string(hash[:])}, ask, func() verdict {
		unknown := fmt.Errorf("join token: %w", ca.ErrNotFound)
		if ask.rows == 0 {
			return verdict{miss: true, err: unknown}
		}
		if err := json.Unmarshal(body, &token); err != nil || token.Hash != hash {
			return verdict{miss: true, err: unknown} // damaged: Verify tells
		}
		if !now.Before(token.Expires) {
			return takenToken(kindExpired, token, now, unknown)
		}
		return takenToken(kindUsed, token, now, nil)
	})
	if err != nil {
		return ca.Token{}, err
	}
	return ca.Token{Hash: hash, IDs: token.IDs, Node: token.Node, Expires: token.Expires, Created: token.Created, By: token.By}, nil
}

// takenToken records that a token is gone, and what it grants when it was good.
func takenToken(kind string, t tokenBody, now time.Time, answer error) verdict {
	r, err := newRecord(kind, takenBody{Hash: t.Hash, IDs: t.IDs, At: whole(now)})
	if err != nil {
		return refuse(err)
	}
	return verdict{record: r, err: answer, rows: func(seq int64) []*statement {
		if kind != kindUsed {
			return nil
		}
		rows := make([]*statement, 0, len(t.IDs))
		for _, id := range t.IDs {
			rows = append(rows, &statement{sql: insertGrant, args: []any{seq, t.Hash[:], id.String()}})
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
