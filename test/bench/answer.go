package main

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of a CheckResponse and of the messages in it.
const (
	fieldStatus, fieldDenied, fieldOK = 1, 2, 3
	fieldCode                         = 1
	permissionDenied                  = 7 // google.rpc.Code
)

// turnedAway reports whether the call got the answer of an overloaded server instead of the policies'.
func (k *call) turnedAway() bool {
	const resourceExhausted = "8"
	if k.status == resourceExhausted {
		return true
	}
	if k.status != "0" || len(k.body) < grpcPrefix || !bytes.Contains(k.body, []byte("overloaded")) {
		return false
	}
	allowed, err := allows(k.body[grpcPrefix:])
	return err == nil && !allowed
}

// verify reports whether the call was answered, and as its question demands. Without strict any allowing answer will do,
// as the stock server gives to everything.
func (k *call) verify(strict bool) error {
	if k.status != "0" {
		return fmt.Errorf("gRPC status %q", k.status)
	}
	if len(k.body) < grpcPrefix {
		return fmt.Errorf("an answer of %d bytes", len(k.body))
	}
	allowed, err := allows(k.body[grpcPrefix:])
	if err != nil {
		return err
	}
	if want := k.question.allowed || !strict; allowed != want {
		return fmt.Errorf("allowed: %t, want %t: %.300q", allowed, want, k.body[grpcPrefix:])
	}
	return nil
}

// allows reads as much of a CheckResponse as Envoy decides by. An answer that contradicts itself is an error.
func allows(raw []byte) (bool, error) {
	var code uint64
	var ok, denied bool
	for message := raw; len(message) > 0; {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return false, protowire.ParseError(n)
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return false, protowire.ParseError(n)
		}
		switch number {
		case fieldStatus:
			code = firstVarint(message)
		case fieldDenied:
			denied = true
		case fieldOK:
			ok = true
		}
		message = message[n:]
	}
	switch {
	case ok && !denied && code == 0:
		return true, nil
	case denied && !ok && code == permissionDenied:
		return false, nil
	}
	return false, fmt.Errorf("an answer with code %d, OK %t, denied %t", code, ok, denied)
}

// firstVarint is the code of the embedded status, 0 if it has none.
func firstVarint(embedded []byte) uint64 {
	status, n := protowire.ConsumeBytes(embedded)
	if n < 0 {
		return 0
	}
	number, kind, n := protowire.ConsumeTag(status)
	if n < 0 || number != fieldCode || kind != protowire.VarintType {
		return 0
	}
	code, _ := protowire.ConsumeVarint(status[n:])
	return code
}
