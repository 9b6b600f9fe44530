package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
)

const selectSchema = `SELECT type || ' ' || name, sql FROM sqlite_schema WHERE sql IS NOT NULL`

// checkSchema refuses tables, indexes and triggers that are not those of the migrations which the file says it has had: a
// trigger that somebody has dropped, an index that is gone.
func checkSchema(ctx context.Context, in reader) error {
	steps, err := migrations("sqlite")
	if err != nil {
		return err
	}
	var version int64
	err = in.query(ctx, selectVersion, nil, func(scan func(...any) error) error { return scan(&version) })
	switch {
	case err != nil:
		return err
	case version < 1:
		return errors.New("its tables are of no version: restore it from a backup")
	case version > int64(len(steps)):
		return tooNew(version, len(steps))
	}
	want, err := expectedSchema(ctx, steps[:version])
	if err != nil {
		return err
	}
	have := make(map[string]string, len(want))
	err = in.query(ctx, selectSchema, nil, func(scan func(...any) error) error {
		var name, sql string
		err := scan(&name, &sql)
		have[name] = sql
		return err
	})
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if have[name] != want[name] {
			return fmt.Errorf("its %s is not the one that writ made: restore it from a backup", name)
		}
		delete(have, name)
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		return fmt.Errorf("it has a %s that writ did not make: drop it", name)
	}
	return nil
}

// expectedSchema runs migrations in memory.
func expectedSchema(ctx context.Context, steps []migration) (_ map[string]string, err error) {
	db, err := sql.Open("sqlite", "file::memory:")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, createVersions); err != nil {
		return nil, err
	}
	for _, m := range steps {
		if _, err := db.ExecContext(ctx, m.sql); err != nil {
			return nil, fmt.Errorf("migration %s: %w", m.name, err)
		}
	}
	rows, err := db.QueryContext(ctx, selectSchema)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	out := make(map[string]string)
	for rows.Next() {
		var name, sql string
		if err := rows.Scan(&name, &sql); err != nil {
			return nil, err
		}
		out[name] = sql
	}
	return out, rows.Err()
}
