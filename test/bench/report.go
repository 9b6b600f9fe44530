package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

// spread is what the rounds of one measurement came to.
type spread []float64

// quantile of the rounds, 0 to 1.
func (s spread) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

// String is the median, and the quartiles if there are any.
func (s spread) String() string {
	if len(s) == 0 {
		return "–"
	}
	if len(s) == 1 {
		return figure(s[0])
	}
	return fmt.Sprintf("%s (%s–%s)", figure(s.quantile(0.5)), figure(s.quantile(0.25)), figure(s.quantile(0.75)))
}

// figure has three significant digits, as many as these measurements carry.
func figure(f float64) string {
	switch {
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	case f >= 0.1:
		return fmt.Sprintf("%.2f", f)
	}
	return fmt.Sprintf("%.3f", f)
}

// ratios divides round by round.
func ratios(ours, theirs []float64) spread {
	list := make(spread, len(ours))
	for i := range ours {
		list[i] = ours[i] / theirs[i]
	}
	return list
}

// markdown is a table.
func markdown(head []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	for _, r := range rows {
		line(r)
	}
	return b.String()
}

// publish prints the text, and puts it between the markers of this name in the file if there is one.
func publish(file, name, text string) error {
	fmt.Println(text)
	if file == "" {
		return nil
	}
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+name+": begin -->\n", "<!-- "+name+": end -->"
	head, rest, found := bytes.Cut(old, []byte(begin))
	_, tail, closed := bytes.Cut(rest, []byte(end))
	if !found || !closed {
		return fmt.Errorf("%s has no lines %q and %q to write between", file, strings.TrimSpace(begin), end)
	}
	return os.WriteFile(file, slices.Concat(head, []byte(begin+text), []byte(end), tail), 0o644) //nolint:gosec // G306: documentation
}

// machine says what the figures were measured on, in one sentence, and how busy it was with other things.
func machine(ctx context.Context, busy float64, envoy string) string {
	model := "unknown processor"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
		_ = f.Close()
	}
	text := fmt.Sprintf("%d cores of %s, %s, %s/%s", runtime.NumCPU(), model, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if envoy != "" {
		if out, err := exec.CommandContext(ctx, envoy, "--version").Output(); err == nil { //nolint:gosec // G204: the Envoy that was measured
			if parts := strings.Split(string(out), "/"); len(parts) > 1 {
				text += ", Envoy " + parts[len(parts)-4]
			}
		}
	}
	if busy > 0.5 {
		text += fmt.Sprintf("; the machine was busy with other work (load average %.1f before the start)", busy)
	}
	return text
}

// loadAverage is how many threads have been running or waiting to, over the last minute.
func loadAverage() (float64, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	var busy float64
	_, err = fmt.Sscan(string(text), &busy)
	return busy, errors.Join(err)
}
