package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// act is a part of the table with a heading of its own.
type act struct {
	title string
	rows  []row
}

// row is one line: a request and its answer, or something that is done and what came of it.
type row struct {
	caller, service, what string
	expected              string
	why                   string // empty = whatever is said

	// try does it.
	try func(ctx context.Context) (seen, why string, err error)
}

// table prints acts as they happen.
type table struct {
	out       io.Writer
	widths    [5]int
	rows      int
	different int
}

// newTable makes room for everything that will be expected.
func newTable(out io.Writer, acts []act) *table {
	t := &table{out: out}
	t.fit("caller", "calls", "request", "expected", "seen")
	for _, a := range acts {
		for _, r := range a.rows {
			t.fit(r.caller, r.service, r.what, r.expected, r.expected)
		}
	}
	return t
}

func (t *table) fit(cells ...string) {
	for i, cell := range cells {
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cell))
	}
}

func (t *table) line(mark string, cells ...string) {
	var b strings.Builder
	b.WriteString(mark)
	for i, cell := range cells {
		b.WriteString("  ")
		b.WriteString(cell)
		if i < len(t.widths) {
			b.WriteString(strings.Repeat(" ", max(0, t.widths[i]-utf8.RuneCountInString(cell))))
		}
	}
	fmt.Fprintln(t.out, b.String())
}

func (t *table) head() {
	fmt.Fprintln(t.out)
	t.line(" ", "caller", "calls", "request", "expected", "seen", "why (of requests: from the access log of the callee's Envoy)")
}

// play does what an act says, and prints each row when it is done.
func (t *table) play(ctx context.Context, a act) error {
	fmt.Fprintf(t.out, "\n   %s\n", a.title)
	for _, r := range a.rows {
		seen, why, err := r.try(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("%s → %s, %s: %w", r.caller, r.service, r.what, err)
		}
		mark := "✓"
		if seen != r.expected || r.why != "" && why != r.why {
			mark = "✗"
			t.different++
		}
		if r.why != "" && why != r.why {
			why += "  — expected: " + r.why
		}
		t.rows++
		t.line(mark, r.caller, r.service, r.what, r.expected, seen, why)
	}
	return nil
}

func (t *table) sum() {
	fmt.Fprintf(t.out, "\n%d rows, %d as expected, %d not.\n", t.rows, t.rows-t.different, t.different)
}
