package telemetry

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of the decision log.
const (
	maxQueuedLines = 8192
	maxValueBytes  = 1024 // of one value; a longer one is cut and marked with …
	maxLabels      = 32

	// gatherTime is how long the first line of a burst waits for more, so that a server full of denials makes 200
	// writes a second instead of one for each.
	gatherTime = 5 * time.Millisecond
)

// LogWhat says which decisions are logged.
type LogWhat string

// What can be logged.
const (
	LogOff     LogWhat = "off"
	LogDenials LogWhat = "denials"
	LogAll     LogWhat = "all"
)

// DecisionLogConfig is what a decision log needs.
type DecisionLogConfig struct {
	// To is stdout, stderr or a file, which is appended to and made with mode 0640.
	To string
	// Log says which decisions are logged; empty means none.
	Log LogWhat
	// Subjects has the iss and sub of verified tokens logged. They may name people.
	Subjects bool
	// Stdout and Stderr are written to when To names them.
	Stdout, Stderr io.Writer
	// Logger hears of a destination that fails; nil discards.
	Logger *slog.Logger
}

// DecisionLog writes decisions as JSON lines. [DecisionLog.Observe] never waits: when the destination is slower than
// the checks, lines are dropped and counted.
type DecisionLog struct {
	config  DecisionLogConfig
	lines   chan *[]byte
	reopen  chan struct{}
	buffers sync.Pool
	dropped atomic.Uint64

	// Owned by Run.
	out     *bufio.Writer
	file    *os.File // nil for stdout and stderr
	failing bool     // the last write failed, and was logged
}

// NewDecisionLog opens the destination, so that a wrong one is found at start.
func NewDecisionLog(c DecisionLogConfig) (*DecisionLog, error) {
	switch c.Log {
	case "", LogOff, LogDenials, LogAll:
	default:
		return nil, fmt.Errorf("decision log: log %q: want off, denials or all", c.Log)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	l := &DecisionLog{
		config:  c,
		lines:   make(chan *[]byte, maxQueuedLines),
		reopen:  make(chan struct{}, 1),
		buffers: sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }},
	}
	if c.Log == "" || c.Log == LogOff {
		l.config.Log, l.out = LogOff, bufio.NewWriter(io.Discard)
		return l, nil
	}
	return l, l.open()
}

func (l *DecisionLog) open() error {
	switch l.config.To {
	case "stdout":
		l.out = bufio.NewWriterSize(l.config.Stdout, 64<<10)
	case "stderr":
		l.out = bufio.NewWriterSize(l.config.Stderr, 64<<10)
	default:
		f, err := os.OpenFile(l.config.To, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640) //nolint:gosec // G302: log shippers read it by group
		if err != nil {
			return fmt.Errorf("decision log: %w", err)
		}
		l.file, l.out = f, bufio.NewWriterSize(f, 64<<10)
	}
	return nil
}

// Observe queues the line of one decision, if it is one to be logged.
func (l *DecisionLog) Observe(c *Check) {
	if l.config.Log == LogOff || l.config.Log == LogDenials && c.Decision.Allow {
		return
	}
	line := l.buffers.Get().(*[]byte)
	*line = appendLine((*line)[:0], c, l.config.Subjects)
	l.enqueue(line)
}

// enqueue hands a line to Run, or drops it.
func (l *DecisionLog) enqueue(line *[]byte) {
	select {
	case l.lines <- line:
	default:
		l.dropped.Add(1)
		l.buffers.Put(line)
	}
}

// Dropped counts the lines that were lost.
func (l *DecisionLog) Dropped() uint64 { return l.dropped.Load() }

// Reopen makes Run open the file anew, after a log rotation moved it away. It does not wait.
func (l *DecisionLog) Reopen() {
	select {
	case l.reopen <- struct{}{}:
	default:
	}
}

// Run writes queued lines until ctx ends; then it writes what is left, and closes the file. Nothing may be observed
// any more by then, or it may be lost.
func (l *DecisionLog) Run(ctx context.Context) error {
	gather := time.NewTimer(gatherTime)
	defer gather.Stop()
	for {
		select {
		case line := <-l.lines:
			l.write(line)
			gather.Reset(gatherTime)
			select {
			case <-gather.C:
			case <-ctx.Done():
			}
			l.drain()
			l.flush()
		case <-l.reopen:
			l.rotate()
		case <-ctx.Done():
			return l.finish()
		}
	}
}

// drain writes what is queued.
func (l *DecisionLog) drain() {
	for {
		select {
		case line := <-l.lines:
			l.write(line)
		default:
			return
		}
	}
}

func (l *DecisionLog) write(line *[]byte) {
	if _, err := l.out.Write(*line); err != nil {
		l.fail(err)
	}
	l.buffers.Put(line)
}

func (l *DecisionLog) flush() {
	if l.out.Buffered() == 0 {
		return
	}
	if err := l.out.Flush(); err != nil {
		l.fail(err)
		return
	}
	if l.failing {
		l.failing = false
		l.config.Logger.Info("decision log works again", "to", l.config.To)
	}
}

// fail counts the loss and starts over with an empty buffer: a bufio.Writer stays broken after an error.
func (l *DecisionLog) fail(err error) {
	l.dropped.Add(1)
	if !l.failing {
		l.failing = true
		l.config.Logger.Error("decision log cannot be written, lines are lost", "to", l.config.To, "error", err)
	}
	switch {
	case l.file != nil:
		l.out.Reset(l.file)
	case l.config.To == "stderr":
		l.out.Reset(l.config.Stderr)
	default:
		l.out.Reset(l.config.Stdout)
	}
}

// rotate closes the file and opens whatever is now at its path. If that fails, the old one stays in use.
func (l *DecisionLog) rotate() {
	if l.file == nil {
		return
	}
	l.flush()
	old := l.file
	if err := l.open(); err != nil {
		l.config.Logger.Error("decision log cannot be opened again, the old file stays in use", "to", l.config.To, "error", err)
		return
	}
	if err := old.Close(); err != nil {
		l.config.Logger.Error("decision log: closing the rotated file", "to", l.config.To, "error", err)
	}
}

func (l *DecisionLog) finish() error {
	l.drain()
	l.flush()
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
