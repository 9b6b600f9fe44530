package main

import (
	"context"
	"errors"
	"fmt"
)

// Exit codes, the same for every command and every output format.
const (
	exitOK       = 0
	exitFailed   = 1
	exitNo       = 2 // the answer is no: a denied request
	exitInvalid  = 3 // a document or the config is invalid
	exitTests    = 4 // tests failed
	exitFindings = 5 // findings at or above --fail-on
	exitUnknown  = 6 // cannot tell
	exitUsage    = 64
)

// exitError carries the exit code of a command. Without err there is nothing left to say: the answer says it all.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exitWith ends a command with code once its answer is written.
func exitWith(code int) error { return &exitError{code: code} }

// usagef reports a command line that cannot be meant.
func usagef(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// invalidf reports a document or config that cannot be used.
func invalidf(format string, args ...any) error {
	return &exitError{code: exitInvalid, err: fmt.Errorf(format, args...)}
}

// exitCode is the process exit code for what a command returned, and the message that remains to be printed.
func exitCode(err error) (code int, message string) {
	if err == nil {
		return exitOK, ""
	}
	var e *exitError
	switch {
	case errors.As(err, &e) && e.err == nil:
		return e.code, ""
	case errors.As(err, &e):
		return e.code, err.Error()
	case errors.Is(err, context.Canceled):
		return exitFailed, "interrupted"
	}
	return exitFailed, err.Error()
}
