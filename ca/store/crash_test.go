package store_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/store"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// The test binary runs itself with WRIT_STORE_HELPER set to one of these, and what it needs in WRIT_STORE_AT: the
// path of a ledger or a DSN.
const (
	helperIssue = "issue" // works until it is killed, and prints what was acknowledged
	helperOpen  = "open"  // opens the ledger, says so, and holds it until stdin ends
	helperFill  = "fill"  // the same, with fifty certificates before
)

// runHelper is main for a helper; it returns the exit code.
func runHelper(kind string) int {
	ctx := context.Background()
	s, err := openAt(ctx, os.Getenv("WRIT_STORE_AT"))
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	for n := range 50 {
		if kind != helperFill {
			break
		}
		if err := errors.Join(s.Begin(ctx, intentOf(n)), s.Finish(ctx, outcomeOf(n))); err != nil {
			fmt.Println("error:", err)
			return 1
		}
	}
	fmt.Println("open")
	switch kind {
	case helperOpen, helperFill:
		_, _ = io.Copy(io.Discard, os.Stdin)
	case helperIssue:
		first, err := strconv.Atoi(os.Getenv("WRIT_STORE_FIRST"))
		if err == nil {
			err = work(ctx, s, first)
		}
		fmt.Println("error:", err)
		return 1
	}
	if err := s.Close(); err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

func openAt(ctx context.Context, where string) (*store.Store, error) {
	if strings.HasPrefix(where, "postgres:") {
		return store.OpenPostgres(ctx, store.PostgresConfig{DSN: where, Create: true})
	}
	return store.OpenSQLite(ctx, store.SQLiteConfig{Path: where, Create: true})
}

// work issues certificates, and now and then takes a token and moves a counter, from eight callers at once. Each line
// is printed once the store has acknowledged what it says.
func work(ctx context.Context, s *store.Store, first int) error {
	const callers = 8
	return errors.Join(atOnce(callers, func(i int) error {
		for n := first + i; ; n += callers {
			if err := s.Begin(ctx, intentOf(n)); err != nil {
				return err
			}
			fmt.Printf("begun %d\n", n)
			if err := s.Finish(ctx, outcomeOf(n)); err != nil {
				return err
			}
			fmt.Printf("finished %d\n", n)
			if n%5 != 0 {
				continue
			}
			if err := takeOne(ctx, s, n); err != nil {
				return err
			}
			fmt.Printf("taken %d\n", n)
			key := fmt.Sprintf("caller %d", i)
			_, version, err := s.Get(ctx, key)
			if err != nil && !errors.Is(err, ca.ErrNotFound) {
				return err
			}
			if err := s.Put(ctx, key, []byte("value"), version); err != nil {
				return err
			}
			fmt.Printf("version%d %d\n", i, version+1)
		}
	})...)
}

func takeOne(ctx context.Context, s *store.Store, n int) error {
	token := ca.Token{Hash: intentOf(n).KeyHash, IDs: []spiffeid.ID{idOf("/n/%d", n)}, Created: epoch, Expires: at(1)}
	if err := s.PutToken(ctx, token); err != nil {
		return err
	}
	_, err := s.TakeToken(ctx, token.Hash, intentOf(n).KeyHash, epoch)
	return err
}

// helper starts the test binary as a helper. It dies with the test.
func helper(t *testing.T, kind, where string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), append(env, "WRIT_STORE_HELPER="+kind, "WRIT_STORE_AT="+where)...)
	cmd.SysProcAttr = new(syscall.SysProcAttr)
	cmd.Stderr = os.Stderr
	return cmd
}

// hold starts a helper that holds a ledger, and waits until it does.
func hold(t *testing.T, kind, where string) *exec.Cmd {
	t.Helper()
	cmd := helper(t, kind, where)
	out, err := cmd.StdoutPipe()
	must(t, err)
	_, err = cmd.StdinPipe() // open until the helper is dead
	must(t, err, cmd.Start())
	word := make([]byte, len("open\n"))
	if _, err := io.ReadFull(out, word); err != nil || string(word) != "open\n" {
		t.Fatalf("helper: %q, %v", word, err)
	}
	return cmd
}

// kill ends a helper without giving it a chance.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
}

// kills is how often a process is killed: 30 times, or what WRIT_KILLS says.
func kills(t *testing.T) int {
	text := os.Getenv("WRIT_KILLS")
	if text == "" {
		return 30
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("WRIT_KILLS=%q is not a number of kills", text)
	}
	return n
}

// TestKillSQLite: a process that dies at any moment takes nothing with it that it has acknowledged.
func TestKillSQLite(t *testing.T) {
	t.Parallel()
	killed(t, filepath.Join(t.TempDir(), "ledger.db"), kills(t))
}

// TestKillPostgres: the same, of one of the authorities that share a database.
func TestKillPostgres(t *testing.T) {
	t.Parallel()
	killed(t, postgresDSN(t), (kills(t)+2)/3)
}

func killed(t *testing.T, where string, rounds int) {
	const perRound = 1_000_000 // more than one round can issue
	random := rand.New(rand.NewPCG(3, uint64(rounds)))
	acknowledged := make(map[string]int) // the last version of each counter
	begun, total := 0, 0
	for round := range rounds {
		lines := killOne(t, where, round*perRound, time.Duration(20+random.IntN(180))*time.Millisecond)
		s, err := openAt(t.Context(), where)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for _, line := range lines {
			what, number, _ := strings.Cut(line, " ")
			n, err := strconv.Atoi(number)
			if err != nil {
				t.Fatalf("round %d: %q", round, line)
			}
			total++
			if what == "begun" {
				begun++
			}
			if err := remembers(t, s, what, n, acknowledged); err != nil {
				t.Errorf("round %d: %s: %v", round, line, err)
			}
		}
		if round%20 == 19 || round == rounds-1 {
			if _, err := s.Verify(t.Context()); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		if t.Failed() {
			return
		}
	}
	if begun < rounds {
		t.Errorf("only %d certificates in %d rounds: the test says nothing", begun, rounds)
	}
	t.Logf("%d kills, %d certificates begun, %d acknowledgements, none lost", rounds, begun, total)
}

// TestKillWhileOpening: a process that dies while it makes or opens a ledger leaves one that opens, or none.
func TestKillWhileOpening(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(4, 5))
	dir, opens := t.TempDir(), 0
	for round := range kills(t) {
		path := filepath.Join(dir, strconv.Itoa(round/3), "ledger.db") // new, and what the last kill has left
		cmd := helper(t, helperOpen, path)
		out := new(bytes.Buffer)
		cmd.Stdout = out
		if _, err := cmd.StdinPipe(); err != nil { // which nobody writes or closes before it is killed
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Duration(random.IntN(80))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // killed
		if strings.Contains(out.String(), "open") {
			opens++
		}
		if strings.Contains(out.String(), "error") {
			t.Errorf("round %d: %s", round, out)
		}
		if round%3 == 2 {
			s, err := openAt(t.Context(), path)
			verify(t, opened(t, s, err), 1)
		}
	}
	t.Logf("%d of %d were killed after they had opened it", opens, kills(t))
}

// remembers compares an acknowledgement with the store.
func remembers(t *testing.T, s *store.Store, what string, n int, versions map[string]int) error {
	switch what {
	case "begun", "finished":
		if err := s.Begin(t.Context(), intentOf(n)); !errors.Is(err, ca.ErrSerialExists) {
			return fmt.Errorf("its serial was given again: %w", err)
		}
		entries, _, err := s.Find(t.Context(), ca.Query{Serial: serialOf(n)})
		if err != nil || len(entries) != 1 {
			return fmt.Errorf("%d entries, %w", len(entries), err)
		}
		want := entryOf(n)
		if got := entries[0]; got.Intent != want.Intent || what == "finished" && (got.State != want.State || !bytes.Equal(got.Certificate, want.Certificate)) {
			return fmt.Errorf("it is %+v", got)
		}
	case "taken":
		if _, err := s.TakeToken(t.Context(), intentOf(n).KeyHash, intentOf(n+1).KeyHash, epoch); !errors.Is(err, ca.ErrNotFound) {
			return fmt.Errorf("taken again: %w", err)
		}
		if _, err := s.TakeToken(t.Context(), intentOf(n).KeyHash, intentOf(n).KeyHash, epoch); err != nil {
			return fmt.Errorf("forgotten by whom: %w", err)
		}
	default: // version<caller>
		key := "caller " + strings.TrimPrefix(what, "version")
		versions[key] = max(versions[key], n)
		if _, version, err := s.Get(t.Context(), key); err != nil || version < int64(versions[key]) {
			return fmt.Errorf("%s has version %d, %w", key, version, err)
		}
	}
	return nil
}

// killOne runs a helper, kills it a while after it has opened the store, and returns the whole lines that it printed.
func killOne(t *testing.T, where string, first int, after time.Duration) []string {
	t.Helper()
	cmd := helper(t, helperIssue, where, fmt.Sprintf("WRIT_STORE_FIRST=%d", first))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	var kill sync.Once
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadString('\n')
		if err != nil { // a line without its end was not acknowledged to anybody
			break
		}
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "error:"):
			t.Errorf("helper: %s", line)
		case line == "open":
			kill.Do(func() { time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) })
		default:
			lines = append(lines, line)
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("helper was not killed: %v", err)
	}
	return lines
}
