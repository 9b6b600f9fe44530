package testkit

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Postgres is a PostgreSQL server with a new, empty cluster in a temporary directory, reached by a Unix socket there.
type Postgres struct {
	*Process
	DSN string // of its database, as its owner

	dir string
}

// StartPostgres makes a cluster and returns once it answers; settings are the server's, as "name=value". The programs are
// those on PATH or, where Debian keeps them, the newest: scripts/postgres.sh prints where they are, and installs them.
// PostgreSQL refuses to run as root, so root runs it as postgres, or as nobody.
func StartPostgres(ctx context.Context, settings ...string) (*Postgres, error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "writ-pg-")
	if err != nil {
		return nil, err
	}
	p := &Postgres{dir: dir, DSN: "postgres:///postgres?" + url.Values{"host": {dir}, "user": {"writ"}}.Encode()}
	if err := p.start(ctx, bin, settings); err != nil {
		p.Stop()
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	return p, nil
}

func (p *Postgres) start(ctx context.Context, bin string, settings []string) error {
	owner, err := Unprivileged(p.dir)
	if err != nil {
		return err
	}
	data := filepath.Join(p.dir, "data")
	as := func(program string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, program), args...)
		cmd.Dir, cmd.SysProcAttr = p.dir, childAttributes()
		cmd.SysProcAttr.Credential = owner
		return cmd
	}
	initdb := as("initdb", "-D", data, "-U", "writ", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--data-checksums")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	args := []string{"-D", data, "-k", p.dir}
	for _, setting := range append([]string{"listen_addresses="}, settings...) {
		args = append(args, "-c", setting)
	}
	server := as("postgres", args...)
	if p.Process, err = start("postgres", server, nil); err != nil {
		return err
	}
	_, err = p.Output.Wait(ctx, 0, func(line string) bool { return strings.Contains(line, "ready to accept connections") })
	if err != nil {
		return p.failed(err)
	}
	return nil
}

// Stop ends the server at once, whoever is connected, and throws its data away.
func (p *Postgres) Stop() {
	if p.Process != nil {
		_ = p.Signal(syscall.SIGQUIT) // gone already is fine
		p.Process.Stop()
	}
	_ = os.RemoveAll(p.dir)
}

// postgresBin finds the directory of the server's programs.
func postgresBin() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", errors.New("PostgreSQL's initdb is neither on PATH nor in /usr/lib/postgresql/*/bin: these tests need a real server: " +
			"PATH=$(scripts/postgres.sh):$PATH, or apt-get install postgresql")
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4])
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

// Unprivileged gives a directory to a user that is not root, and returns that user; nil if we are not root ourselves.
func Unprivileged(dir string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2, os.Chown(dir, int(uid), int(gid))); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("running as root, and there is neither a user postgres nor nobody to run this as")
}
