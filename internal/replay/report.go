package replay

// Report is what a replay found.
type Report struct {
	Requests   uint64            `json:"requests"`
	Unreadable uint64            `json:"unreadable,omitempty"` // lines that are no records
	FirstError string            `json:"first_error,omitempty"`
	Kinds      map[string]uint64 `json:"differences"` // requests by kind of difference
	Moves      []Move            `json:"moves"`
	Groups     []Group           `json:"groups"` // of differences, by the rules that decide
	Omitted    uint64            `json:"omitted,omitempty"`
	Sources    []Counted         `json:"sources,omitempty"` // callers of requests that are answered otherwise
	Paths      []Counted         `json:"paths,omitempty"`

	// Compared are the recorded answers that the old set was held against, and Mismatched those that it does not give:
	// it is not what was in force then.
	Compared   uint64 `json:"compared,omitempty"`
	Mismatched uint64 `json:"mismatched,omitempty"`
}

// Move counts the requests with one old and one new answer.
type Move struct {
	Old   string `json:"old"`
	New   string `json:"new"`
	Count uint64 `json:"count"`
}

// Report sums up what was replayed, with the n most frequent sources and paths.
func (r *Replay) Report(n int) *Report {
	out := &Report{Requests: r.total, Unreadable: r.bad, FirstError: r.firstBad, Kinds: r.tally.Counts(), Compared: r.compared, Mismatched: r.mismatch,
		Sources: r.sources.first(n), Paths: r.paths.first(n), Moves: []Move{}}
	for i, before := range words() {
		for j, after := range words() {
			if count := r.moves[i][j]; count > 0 {
				out.Moves = append(out.Moves, Move{before, after, count})
			}
		}
	}
	out.Groups, out.Omitted, _ = r.tally.Groups()
	return out
}

// Count is how many requests differ in one way.
func (r *Report) Count(k Kind) uint64 { return r.Kinds[k.String()] }
