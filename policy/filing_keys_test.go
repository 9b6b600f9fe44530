package policy

import (
	"fmt"
	"net/netip"
	"testing"
)

// Equal keys have one number, others have others, in the order in which they came, however often the table grows.
func TestKeyNumbers(t *testing.T) {
	t.Parallel()
	keys := newKeyNumbers(0)
	f := filing{netOf: map[netip.Prefix]uint32{}}
	var made []fileKey
	for i := range 5000 {
		text := fmt.Sprint(i)
		made = append(made, fileKey{lit: text}, fileKey{lit: text, shelf: 1}, fileKey{lit: text, how: filePrefix}, fileKey{number: uint32(i + 1)}, //nolint:gosec // G115: small
			fileKey{how: fileCIDR, number: f.net(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32))}) //nolint:gosec // G115: of an address
	}
	for round := range 2 {
		for i, k := range made {
			if got := keys.id(k); got != keyID(i) { //nolint:gosec // G115: small
				t.Fatalf("round %d: key %d, %+v, has number %d", round, i, k, got)
			}
		}
	}
}
