package extauthz

import (
	"net"

	"golang.org/x/net/http2/hpack"
)

// Arrived, Answered, Admits and TurnedAway are what a gate does with a limiter.
func (l *Limiter) Arrived()       { l.arrived() }
func (l *Limiter) Answered(n int) { l.left(n, n) }
func (l *Limiter) Admits() bool   { return l.admits() }
func (l *Limiter) TurnedAway()    { l.shed.Add(1) }

// Fill makes the limiter turn everything away until the returned function is called.
func (l *Limiter) Fill() (empty func()) {
	l.atWork.Add(maxAtWork)
	return func() { l.atWork.Add(-maxAtWork) }
}

// Bounds of a limiter.
const (
	Crowd            = crowd
	MaxAtWork        = maxAtWork
	OverloadInterval = overloadInterval
	OverloadGap      = overloadGap
)

// LeastAtWork is the lowest limit in an overload.
func LeastAtWork() int { return int(leastAtWork()) }

// OverloadDenial is the CheckResponse of a check that is turned away.
func OverloadDenial() []byte { return overloadDenial() }

// Gate puts a gate on a connection.
func Gate(conn net.Conn, l *Limiter) net.Conn { return GateOf(conn, l, 100) }

// GateOf is a gate for so many open streams.
func GateOf(conn net.Conn, l *Limiter, maxOpen int) net.Conn {
	return newGate(conn, l, newShedAnswer(l.answer), maxOpen)
}

// ChangesTable reports whether a header block changes HPACK's dynamic table.
func ChangesTable(block []byte) bool { return changesTable(block) }

// Counts reports whether gRPC gets to see a header every time.
func Counts(name string) bool { return counts(name) }

// Abridge is what gRPC gets to see of a good block that leaves the table alone, whose decoder has seen primer.
func Abridge(primer, block []byte) []byte {
	d := hpack.NewDecoder(headerTable, nil)
	if _, err := d.DecodeFull(primer); err != nil {
		return nil
	}
	fields, err := d.DecodeFull(block)
	if err != nil {
		return nil
	}
	list := make([]bool, len(fields))
	for i, f := range fields {
		list[i] = counts(f.Name)
	}
	return abridge(nil, block, list)
}

// GoodBlock reports whether a header block can be decoded by a decoder with this table.
func GoodBlock(primer, block []byte) ([]hpack.HeaderField, bool) {
	d := hpack.NewDecoder(headerTable, nil)
	if _, err := d.DecodeFull(primer); err != nil {
		return nil, false
	}
	if _, err := d.DecodeFull(block); err != nil {
		return nil, false
	}
	fields, err := d.DecodeFull([]byte{0x80 | 62, 0x80 | 63}) // what the primer put in
	return fields, err == nil
}
