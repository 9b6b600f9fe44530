package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
)

// maxOutputLines bounds what an [Output] remembers; older lines are forgotten first.
const maxOutputLines = 20_000

// errEnded is returned by waits on the output of a process that has ended.
var errEnded = errors.New("the process has ended")

// Output collects the lines a process prints. It is safe for concurrent use.
type Output struct {
	mu      sync.Mutex
	partial []byte        // the last, unfinished line
	lines   []string      // at most maxOutputLines
	first   int           // index of lines[0] counted from the start
	closed  bool          // nothing more will come
	changed chan struct{} // closed and replaced whenever something above changes
}

func newOutput() *Output { return &Output{changed: make(chan struct{})} }

// Write takes what the process printed. It never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.partial = append(o.partial, p...)
	for {
		line, rest, found := bytes.Cut(o.partial, []byte("\n"))
		if !found {
			break
		}
		o.lines = append(o.lines, string(line))
		o.partial = rest
	}
	if over := len(o.lines) - maxOutputLines; over > 0 {
		o.lines = o.lines[over:]
		o.first += over
	}
	o.signal()
	return len(p), nil
}

// close ends all waits. An unfinished last line counts as a line.
func (o *Output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.partial) > 0 {
		o.lines = append(o.lines, string(o.partial))
		o.partial = nil
	}
	o.closed = true
	o.signal()
}

func (o *Output) signal() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// String is everything printed so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.lines, "\n")
}

// Tail is the last n lines, for error messages.
func (o *Output) Tail(n int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.lines[max(0, len(o.lines)-n):], "\n")
}

// Count is the number of lines that match accepts.
func (o *Output) Count(match func(line string) bool) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, line := range o.lines {
		if match(line) {
			n++
		}
	}
	return n
}

// Mark is a place in the output: [Output.Wait] from it ignores everything earlier.
func (o *Output) Mark() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.first + len(o.lines)
}

// Wait returns the first line after mark that match accepts, waiting for it until ctx ends or the process does.
func (o *Output) Wait(ctx context.Context, mark int, match func(line string) bool) (string, error) {
	for next := mark; ; {
		o.mu.Lock()
		for ; next < o.first+len(o.lines); next++ {
			if line := o.lines[max(0, next-o.first)]; match(line) {
				o.mu.Unlock()
				return line, nil
			}
		}
		closed, changed := o.closed, o.changed
		o.mu.Unlock()
		if closed {
			return "", errEnded
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("no line of output as expected: %w", ctx.Err())
		}
	}
}
