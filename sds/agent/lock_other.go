//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package agent

import (
	"errors"
	"io"
)

// lockExclusively refuses: without a lock two agents could write one state.
func lockExclusively(string) (io.Closer, error) { return nil, errors.ErrUnsupported }
