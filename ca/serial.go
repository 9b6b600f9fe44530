package ca

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
)

// newSerial draws 127 random bits, never zero (identity §1.2). The ledger sees to it that none is drawn twice.
func newSerial() Serial {
	var s Serial
	for s.IsZero() {
		_, _ = rand.Read(s[:]) // never fails: crypto/rand ends the program instead
		s[0] &= 0x7f
	}
	return s
}

// ParseSerial reads a serial number in hex, as openssl and this package print it; colons are ignored.
func ParseSerial(text string) (Serial, error) {
	clean := strings.ToLower(strings.ReplaceAll(text, ":", ""))
	var s Serial
	if len(clean) > 2*len(s) {
		return Serial{}, fmt.Errorf("serial number %.50q: more than 128 bits", text)
	}
	clean = strings.Repeat("0", 2*len(s)-len(clean)) + clean
	if _, err := hex.Decode(s[:], []byte(clean)); err != nil || s.IsZero() || s[0] >= 0x80 {
		return Serial{}, fmt.Errorf("serial number %.50q: want a positive number of at most 127 bits in hex", text)
	}
	return s, nil
}

// Int is the serial number as crypto/x509 has it.
func (s Serial) Int() *big.Int { return new(big.Int).SetBytes(s[:]) }

// String is the serial number in hex, 32 digits.
func (s Serial) String() string { return fmt.Sprintf("%x", s[:]) }

// LogValue implements [slog.LogValuer]: logs name a serial number as commands do.
func (s Serial) LogValue() slog.Value { return slog.StringValue(s.String()) }

// IsZero reports whether s is no serial number.
func (s Serial) IsZero() bool { return s == Serial{} }

// SerialOf is the serial number of a certificate, if it is one that this authority could have given.
func SerialOf(n *big.Int) (s Serial, ok bool) {
	if n == nil || n.Sign() <= 0 || n.BitLen() > 127 {
		return s, false
	}
	n.FillBytes(s[:])
	return s, true
}
