package extauthz

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/net/http2"
)

// fragment is the header block in a HEADERS frame (RFC 9113 §6.2).
func fragment(f frameHead, payload []byte) ([]byte, error) {
	padding := 0
	if f.flags.Has(http2.FlagHeadersPadded) && len(payload) > 0 {
		padding, payload = int(payload[0]), payload[1:]
	}
	if f.flags.Has(http2.FlagHeadersPriority) {
		payload = payload[min(5, len(payload)):]
	}
	if padding > len(payload) {
		return nil, errors.New("extauthz: headers with more padding than there is room for")
	}
	return payload[:len(payload)-padding], nil
}

// headerBlock is what the gate makes of one.
type headerBlock struct {
	check   bool   // it stands for a check
	changes bool   // it changes the table of headers that client and server share
	brief   []byte // what counts of it, nil for all
}

// read decodes a header block. The headers of one proxy's checks are the same every time, and then that is all but free.
func (in *inbound) read(block []byte) (headerBlock, error) {
	if len(in.known) > 0 && bytes.Equal(block, in.known) {
		return headerBlock{check: true, brief: in.brief}, nil
	}
	in.path, in.counts = "", in.counts[:0]
	if _, err := in.headers.Write(block); err != nil {
		return headerBlock{}, fmt.Errorf("extauthz: headers: %w", err)
	}
	if err := in.headers.Close(); err != nil {
		return headerBlock{}, fmt.Errorf("extauthz: headers: %w", err)
	}
	read := headerBlock{check: in.path == checkPath, changes: changesTable(block)}
	switch {
	case read.changes:
		in.known = in.known[:0] // the same bytes may mean something else now
	case read.check && len(block) <= maxKnownBlock:
		in.known = append(in.known[:0], block...)
		in.brief = abridge(in.brief[:0], block, in.counts)
	}
	return read, nil
}

// counts reports whether a header of a check makes a difference to gRPC or to us. gRPC makes a map of all of them, which is
// half of the memory that a check takes: what proxies add for others is left out.
func counts(name string) bool {
	switch name {
	case ":method", ":path", ":authority", "host", "content-type", "connection":
		return true
	}
	return strings.HasPrefix(name, "grpc-") || strings.HasPrefix(name, metadataPrefix)
}

// abridge appends the fields of a good block that count. The block leaves the table alone, and so does what is appended.
func abridge(b, block []byte, counts []bool) []byte {
	for _, counts := range counts {
		rest, _ := afterField(block)
		if counts {
			b = append(b, block[:len(block)-len(rest)]...)
		}
		block = rest
	}
	return b
}

// changesTable reports whether a header block, which is a good one, adds to the dynamic table or resizes it (RFC 7541
// §6.2.1 and §6.3).
func changesTable(block []byte) bool {
	for len(block) > 0 {
		var changes bool
		if block, changes = afterField(block); changes {
			return true
		}
	}
	return false
}

// afterField is what follows the first field of a good block, unless that changes the table.
func afterField(block []byte) (rest []byte, changes bool) {
	switch first := block[0]; {
	case first&0x80 != 0: // indexed
		_, rest = prefixed(block, 7)
		return rest, false
	case first&0xe0 == 0x20, first&0xc0 == 0x40:
		return nil, true
	}
	index, rest := prefixed(block, 4) // literal, not to be indexed
	if index == 0 {
		rest = afterString(rest)
	}
	return afterString(rest), false
}

// prefixed reads an integer whose first byte has so many bits for it (RFC 7541 §5.1).
func prefixed(b []byte, bits uint) (int, []byte) {
	mask := 1<<bits - 1
	n := int(b[0]) & mask
	b = b[1:]
	if n < mask {
		return n, b
	}
	for shift := 0; len(b) > 0 && shift < 28; shift += 7 {
		digit := b[0]
		b = b[1:]
		n += int(digit&0x7f) << shift
		if digit&0x80 == 0 {
			break
		}
	}
	return n, b
}

func afterString(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	n, b := prefixed(b, 7)
	return b[min(n, len(b)):]
}
