//go:build !amd64

package main

import (
	"context"
	"errors"
)

// stepThrough needs to know an architecture's breakpoints and calls.
func stepThrough(context.Context, string, hotPath, int) (*stepped, error) {
	return nil, errors.New("instructions are counted on amd64 only")
}
