package extauthz

import (
	"bytes"
	"errors"
	"fmt"

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

// read decodes a header block. It reports whether it stands for a check, and whether it changes the table of headers
// that client and server share. The headers of one proxy's checks are the same every time, and then is all but free.
func (in *inbound) read(block []byte) (check, changes bool, err error) {
	if len(in.known) > 0 && bytes.Equal(block, in.known) {
		return true, false, nil
	}
	in.path = ""
	if _, err := in.headers.Write(block); err != nil {
		return false, false, fmt.Errorf("extauthz: headers: %w", err)
	}
	if err := in.headers.Close(); err != nil {
		return false, false, fmt.Errorf("extauthz: headers: %w", err)
	}
	check, changes = in.path == checkPath, changesTable(block)
	switch {
	case changes:
		in.known = in.known[:0] // the same bytes may mean something else now
	case check && len(block) <= maxKnownBlock:
		in.known = append(in.known[:0], block...)
	}
	return check, changes, nil
}

// changesTable reports whether a header block, which is a good one, adds to the dynamic table or resizes it (RFC 7541
// §6.2.1 and §6.3).
func changesTable(block []byte) bool {
	for len(block) > 0 {
		switch first := block[0]; {
		case first&0x80 != 0: // indexed
			_, block = prefixed(block, 7)
		case first&0xe0 == 0x20, first&0xc0 == 0x40:
			return true
		default: // literal, not to be indexed
			var index int
			if index, block = prefixed(block, 4); index == 0 {
				block = afterString(block)
			}
			block = afterString(block)
		}
	}
	return false
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
