// Package store keeps what an authority must not lose: the ledger of certificates, join tokens, revocations, the
// authority's small documents and the audit log. It implements [ca.Store] on SQLite, one file for one authority, and
// on PostgreSQL, one database for several. Start with [OpenSQLite] or [OpenPostgres].
//
// Everything that changes is first a record of one journal, append only and hash-chained; the tables that are searched
// follow from the journal and are written in the same transaction. [Store.Verify] walks the chain and holds the tables
// against it. Records are ordered by their number, never by a clock.
//
// A change is acknowledged only once it is on disk. Changes that wait at the same time share one transaction and one
// sync; a store that is full, read-only, locked or unreachable refuses with [ca.ErrUnavailable] and goes on serving what
// it can read. It never starts anew beside what may be lost: a missing, truncated or foreign ledger is an error.
package store
