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

// StartPostgres makes a cluster and returns once it answers. The programs are those on PATH: scripts/postgres.sh prints
// where they are, and installs them. PostgreSQL refuses to run as root, so root runs it as postgres, or as nobody.
func StartPostgres(ctx context.Context) (*Postgres, error) {
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL's programs are not on PATH: PATH=$(scripts/postgres.sh):$PATH: %w", err)
	}
	if initdb, err = filepath.EvalSymlinks(initdb); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "writ-pg-")
	if err != nil {
		return nil, err
	}
	p := &Postgres{dir: dir, DSN: "postgres:///postgres?" + url.Values{"host": {dir}, "user": {"writ"}}.Encode()}
	if err := p.start(ctx, filepath.Dir(initdb)); err != nil {
		p.Stop()
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	return p, nil
}

func (p *Postgres) start(ctx context.Context, bin string) error {
	owner, err := unprivileged(p.dir)
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
	initdb := as("initdb", "-D", data, "-U", "writ", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	server := as("postgres", "-D", data, "-k", p.dir, "-c", "listen_addresses=")
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

// unprivileged gives a directory to a user that is not root, and returns that user; nil if we are not root ourselves.
func unprivileged(dir string) (*syscall.Credential, error) {
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
	return nil, errors.New("running as root, and there is neither a user postgres nor nobody to run PostgreSQL as")
}
