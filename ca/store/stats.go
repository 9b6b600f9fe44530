package store

import (
	"sync/atomic"
	"time"
)

// Stats are numbers about the writer since the store was opened.
type Stats struct {
	Queued     int           // changes that wait now
	QueueLimit int           // and how many may
	Groups     int64         // transactions that were tried
	Changes    int64         // changes in them
	MaxGroup   int64         // changes in the largest
	Failed     int64         // transactions that failed
	Refused    int64         // changes refused because too many waited
	WriteTime  time.Duration // spent in transactions, commits included
	CommitTime time.Duration // spent in commits: the sync, and what the disk takes for it
}

// Stats returns the current numbers.
func (s *Store) Stats() Stats {
	c := &s.stats
	return Stats{
		Queued: len(s.queue) + int(c.held.Load()), QueueLimit: cap(s.queue),
		Groups: c.groups.Load(), Changes: c.changes.Load(), MaxGroup: c.maxGroup.Load(),
		Failed: c.failed.Load(), Refused: c.refused.Load(),
		WriteTime: time.Duration(c.writeTime.Load()), CommitTime: time.Duration(c.commitTime.Load()),
	}
}

// counters are Stats in the making. Only the writer writes them, but for refused.
type counters struct {
	held, groups, changes, maxGroup, failed, refused, writeTime, commitTime atomic.Int64
}

func (c *counters) group(members int, took time.Duration, err error) {
	c.groups.Add(1)
	c.changes.Add(int64(members))
	c.maxGroup.Store(max(c.maxGroup.Load(), int64(members)))
	c.writeTime.Add(int64(took))
	if err != nil {
		c.failed.Add(1)
	}
}

func (c *counters) commit(took time.Duration) { c.commitTime.Add(int64(took)) }
