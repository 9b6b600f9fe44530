package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/writ-auth/writ/ca/store"
)

func TestPostgres(t *testing.T) {
	t.Parallel()
	suite(t, postgresPlace)
}

// postgresPlace makes a new ledger in a schema of its own, on the server that all tests share.
func postgresPlace(t *testing.T) place {
	dsn := postgresDSN(t)
	return place{
		open: func(t *testing.T) *store.Store {
			s, err := store.OpenPostgres(t.Context(), store.PostgresConfig{DSN: dsn, Create: true, Now: clock})
			return opened(t, s, err)
		},
		tamper: func(t *testing.T, sql string) { psql(t, dsn+"&session_replication_role=replica", sql) },
		exec:   func(t *testing.T, sql string) error { return tryPSQL(t.Context(), dsn, sql) },
		bytes:  func(b []byte) string { return fmt.Sprintf(`'\x%x'`, b) },
		shared: true,
	}
}

// server is the PostgreSQL of this test run; it is started by the first test that needs it and ended by TestMain.
var server struct {
	once   sync.Once
	err    error
	dir    string
	dsn    string
	schema atomic.Int64
	cmd    *exec.Cmd
	done   chan struct{}
}

// postgresDSN makes a schema on the shared server.
func postgresDSN(t testing.TB) string {
	t.Helper()
	server.once.Do(func() { server.err = startPostgres() })
	if server.err != nil {
		t.Fatal(server.err)
	}
	schema := fmt.Sprintf("test_%d", server.schema.Add(1))
	psql(t, server.dsn, "CREATE SCHEMA "+schema)
	return server.dsn + "&search_path=" + schema
}

// psql runs one statement as somebody else.
func psql(t testing.TB, dsn, sql string, args ...any) {
	t.Helper()
	if err := tryPSQL(t.Context(), dsn, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func tryPSQL(ctx context.Context, dsn, sql string, args ...any) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql, args...)
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

// startPostgres makes a cluster in a temporary directory and serves it on a Unix socket there. PostgreSQL refuses to
// run as root, so root becomes postgres, or nobody.
func startPostgres() error {
	bin, err := postgresBin()
	if err != nil {
		return err
	}
	if server.dir, err = os.MkdirTemp("", "writ-pg-"); err != nil {
		return err
	}
	credential, err := unprivileged(server.dir)
	if err != nil {
		return err
	}
	run := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir = server.dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
		dieWithParent(cmd.SysProcAttr)
		return cmd
	}
	data := filepath.Join(server.dir, "data")
	initdb := run("initdb", "-D", data, "-U", "writ", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--data-checksums")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	server.cmd = run("postgres", "-D", data, "-k", server.dir, "-c", "listen_addresses=", "-c", "max_connections=300", "-c", "shared_buffers=64MB")
	log := new(bytes.Buffer)
	server.cmd.Stdout, server.cmd.Stderr = log, log
	if err := startHere(server.cmd); err != nil {
		return err
	}
	server.dsn = "postgres:///postgres?" + url.Values{"host": {server.dir}, "user": {"writ"}}.Encode()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := tryPSQL(ctx, server.dsn, "SELECT 1")
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-server.done:
			return fmt.Errorf("postgres has ended: %s", log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// startHere starts the server on a thread that lives as long as it does: Linux takes the death of the thread for that
// of the parent.
func startHere(cmd *exec.Cmd) error {
	server.done = make(chan struct{})
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it was told to end
		}
		close(server.done)
	}()
	return <-started
}

func stopPostgres() {
	if server.cmd != nil && server.cmd.Process != nil {
		_ = server.cmd.Process.Signal(syscall.SIGQUIT) // immediate: the data is thrown away
		<-server.done
	}
	if server.dir != "" {
		_ = os.RemoveAll(server.dir)
	}
}

// postgresBin finds the directory of the server's programs: newest version first.
func postgresBin() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", errors.New("PostgreSQL's initdb is neither on PATH nor in /usr/lib/postgresql/*/bin: these tests need a real server; " +
			"run scripts/postgres.sh, or apt-get install postgresql")
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4])
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

// unprivileged gives a directory to a user that is not root, and returns that user; nil when we are not root ourselves.
func unprivileged(dir string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2, os.Chown(dir, uid, gid)); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("running as root, and there is neither a user postgres nor nobody to run the server as")
}
