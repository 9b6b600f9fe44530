package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// server is one server in a process of its own.
type server struct {
	name        string
	address     string
	pid         int
	diagnostics string // where writ shows its metrics; empty for others
	stop        func()
}

// startSelf runs this program in another role.
func startSelf(ctx context.Context, role string, args ...string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s, _, out, err := startPiped(ctx, role, append([]string{self, role}, args...))
	if err != nil {
		return nil, err
	}
	address, err := out.ReadString('\n')
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("%s did not start: %w", role, err)
	}
	s.address = strings.TrimSpace(address)
	return s, nil
}

// startPiped runs a program that ends with its standard input.
func startPiped(ctx context.Context, name string, arguments []string) (*server, io.Writer, *bufio.Reader, error) {
	command := exec.CommandContext(ctx, arguments[0], arguments[1:]...) //nolint:gosec // G204: this very program, or what was just built
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := command.Start(); err != nil {
		return nil, nil, nil, err
	}
	stop := func() {
		_ = in.Close()
		_ = command.Wait()
	}
	return &server{name: name, pid: command.Process.Pid, stop: stop}, in, bufio.NewReader(out), nil
}

// startWrit runs the built binary with the documents, in a new folder under dir. It remembers so many tokens. The
// environment is added to this program's.
func startWrit(ctx context.Context, dir, binary, documents string, tokens int, environment ...string) (*server, error) {
	dir, err := os.MkdirTemp(dir, "serve-")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "writ.yaml")
	for file, text := range map[string]string{
		config: fmt.Sprintf("documents: policies\nauthz:\n  listen: 127.0.0.1:0\n  token_cache: {entries: %d}\n"+
			"diagnostics: 127.0.0.1:0\n", tokens),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if err := writeDocuments(filepath.Join(dir, "policies"), documents); err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, binary, "serve", "-c", config) //nolint:gosec // G204: the writ that was built
	command.Env = append(os.Environ(), environment...)
	stderr, err := command.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	s := &server{name: "writ", pid: command.Process.Pid, stop: func() {
		_ = command.Process.Signal(os.Interrupt)
		_ = command.Wait()
	}}
	lines := bufio.NewScanner(stderr)
	if err := s.started(lines); err != nil {
		s.stop()
		return nil, err
	}
	go func() { // nobody reads the rest
		for lines.Scan() {
		}
	}()
	return s, nil
}

// writeDocuments makes a directory with the documents in files of a size that writ reads.
func writeDocuments(dir, documents string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	const (
		separator = "---\n"
		fileBytes = 2 << 20 // writ bounds the size of a file and the values in it
	)
	for i := 0; documents != ""; i++ {
		end := len(documents)
		if end > fileBytes {
			end = strings.LastIndex(documents[:fileBytes], separator) + len(separator)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d.yaml", i)), []byte(documents[:end]), 0o600); err != nil {
			return err
		}
		documents = documents[end:]
	}
	return nil
}

// started reads where the server listens, and returns once it has its documents.
func (s *server) started(lines *bufio.Scanner) error {
	var said strings.Builder
	for loaded := false; s.address == "" || s.diagnostics == "" || !loaded; {
		if !lines.Scan() {
			return fmt.Errorf("writ serve did not start:\n%s", said.String())
		}
		line := lines.Text()
		said.WriteString(line + "\n")
		for what, address := range map[string]*string{"authz": &s.address, "diagnostics": &s.diagnostics} {
			if _, rest, ok := strings.Cut(line, "msg=listening for="+what+" address="); ok {
				*address, _, _ = strings.Cut(rest, " ")
			}
		}
		loaded = loaded || strings.Contains(line, `msg="documents loaded"`)
	}
	return nil
}

// metric is the value of one of writ's metrics without labels.
func (s *server) metric(ctx context.Context, name string) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.diagnostics+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", s.name, name)
}

// cpu adds up what the scheduler has given each thread of the process.
func (s *server) cpu() (time.Duration, error) { return threadsCPU(s.pid) }

func threadsCPU(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d has no threads to read: %w", pid, errors.Join(err, os.ErrNotExist))
	}
	var total int64
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		total += ns
	}
	return time.Duration(total), nil
}

// residentMiB is the process's resident memory now, or at its highest.
func residentMiB(pid int, field string) (float64, error) {
	file := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	_, after, found := strings.Cut(string(text), field+":")
	if !found {
		return 0, fmt.Errorf("%s has no %s", file, field)
	}
	kib, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
	return kib / 1024, err
}

const (
	residentNow  = "VmRSS"
	residentPeak = "VmHWM"
)
