//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package store

import (
	"errors"
	"os"
)

// exclusive refuses: without a lock two authorities could write one ledger.
func exclusive(*os.File) error {
	return errors.ErrUnsupported
}

func release(*os.File) error { return nil }
