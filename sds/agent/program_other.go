//go:build !linux

package agent

import (
	"errors"

	"github.com/writ-auth/writ/internal/unixpeer"
)

// programs needs Linux's /proc.
type programs struct{}

func (*programs) sum(*unixpeer.Peer) (string, error) { return "", errors.ErrUnsupported }
