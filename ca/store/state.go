package store

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/writ-auth/writ/ca"
)

const (
	selectState  = `SELECT value, version, sum FROM state WHERE name = $1`
	selectHeld   = `SELECT version FROM state WHERE name = $1`
	insertState  = `INSERT INTO state (version, value, sum, seq, name) VALUES ($1, $2, $3, $4, $5)`
	replaceState = `UPDATE state SET version = $1, value = $2, sum = $3, seq = $4 WHERE name = $5`
)

// Get returns a small document and its version; version 0 and [ca.ErrNotFound] when there is none. A value that does
// not match the hash that was recorded with it is an error, never an answer.
func (s *Store) Get(ctx context.Context, key string) (value []byte, version int64, err error) {
	if err := required("key", key, maxName); err != nil {
		return nil, 0, fmt.Errorf("get: %w", err)
	}
	var hash []byte
	found := false
	err = s.query(ctx, selectState, []any{key}, func(scan func(...any) error) error {
		found = true
		return scan(&value, &version, &hash)
	})
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("get %q: %w", key, err)
	case !found:
		return nil, 0, fmt.Errorf("get %q: %w", key, ca.ErrNotFound)
	case sum(sha256.Sum256(value)) != sum(hash):
		return nil, 0, fmt.Errorf("get %q: %w: version %d is damaged, restore a backup", key, ca.ErrUnavailable, version)
	}
	return value, version, nil
}

// Put writes a small document if its version still is the given one, 0 for a new key; [ca.ErrConflict] otherwise. The
// next version is one higher. The journal records the hash of the value, not the value.
func (s *Store) Put(ctx context.Context, key string, value []byte, version int64) error {
	if err := required("key", key, maxName); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if len(value) > maxValue {
		return fmt.Errorf("put %q: %d bytes, more than %d", key, len(value), maxValue)
	}
	value = append([]byte{}, value...) // the caller may reuse it before it is written
	var held int64
	ask := &statement{sql: selectHeld, args: []any{key}, dest: []any{&held}}
	err := s.submit(ctx, []string{"state " + key}, ask, func() verdict {
		if held != version {
			return refuse(fmt.Errorf("%w: version %d was read, it is %d now", ca.ErrConflict, version, held))
		}
		hash := sum(sha256.Sum256(value))
		r, err := newRecord(kindState, stateBody{Key: key, Version: version + 1, Sum: hash})
		if err != nil {
			return refuse(err)
		}
		sql := replaceState
		if version == 0 {
			sql = insertState
		}
		return verdict{record: r, rows: func(seq int64) []*statement {
			return []*statement{{sql: sql, args: []any{version + 1, value, hash[:], seq, key}}}
		}}
	})
	if err != nil {
		return fmt.Errorf("put %q: %w", key, err)
	}
	return nil
}
