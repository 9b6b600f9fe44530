package attest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// Peer is the process at the other end of a Unix socket, as the kernel reports it. Close it when the connection ends.
//
// The kernel names the process by a number that is used again once it is gone. Peer holds on to the process's own
// directory of /proc and its start time, so that asking about another process with the same number fails instead of
// answering (identity §11 surprise 30).
type Peer struct {
	PID int
	UID uint32
	GID uint32

	proc    *os.Root
	started string
}

// Check reports whether the process is still the one that connected.
func (p *Peer) Check() error {
	started, err := p.startTime()
	if err != nil {
		return fmt.Errorf("process %d of uid %d is gone: %w", p.PID, p.UID, err)
	}
	if started != p.started {
		return fmt.Errorf("process %d of uid %d is another one than connected", p.PID, p.UID)
	}
	return nil
}

// Program is the path of the program that the process runs. It fails if the program's file was removed or replaced.
func (p *Peer) Program() (string, error) {
	path, err := p.proc.Readlink("exe")
	if err != nil {
		return "", fmt.Errorf("program of process %d: %w", p.PID, err)
	}
	if strings.HasSuffix(path, " (deleted)") {
		return "", fmt.Errorf("program of process %d: its file was removed or replaced", p.PID)
	}
	return path, p.Check()
}

// Close lets go of the process.
func (p *Peer) Close() error { return p.proc.Close() }

// startTime is field 22 of /proc/PID/stat, in clock ticks since boot; the second field is a name that may hold anything.
func (p *Peer) startTime() (string, error) {
	stat, err := p.proc.ReadFile("stat")
	if err != nil {
		return "", err
	}
	text := string(stat)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const startTime = 22 - 3 // the first field here is the third of the line
	if len(fields) <= startTime {
		return "", errors.New("/proc/PID/stat is not as expected")
	}
	return fields[startTime], nil
}

// PeerRule gives an identity to local processes. At least one of UID, GID and Path must be set; those that are must all
// match.
type PeerRule struct {
	ID   spiffeid.ID
	UID  *uint32
	GID  *uint32
	Path string // of the program, absolute
}

func (r PeerRule) check(trustDomain spiffeid.ID) error {
	if refused := checkID(trustDomain, r.ID); refused != nil {
		return refused.Err
	}
	switch {
	case r.UID == nil && r.GID == nil && r.Path == "":
		return fmt.Errorf("%s: want a uid, a gid or a path: without, every process would match", r.ID)
	case r.Path != "" && (!filepath.IsAbs(r.Path) || filepath.Clean(r.Path) != r.Path):
		return fmt.Errorf("%s: path %q: want an absolute one, without dots", r.ID, r.Path)
	}
	return nil
}

func (r PeerRule) matches(p *Peer, program string) bool {
	return (r.UID == nil || *r.UID == p.UID) && (r.GID == nil || *r.GID == p.GID) && (r.Path == "" || r.Path == program)
}

// peer says who a local process is: the first rule that matches it counts, the others are what it may ask for besides.
func (a *Attestor) peer(p *Peer) (*Caller, *Error) {
	program, unknown := p.Program()
	caller := &Caller{
		Method: MethodPeer, Who: "uid=" + strconv.FormatUint(uint64(p.UID), 10),
		Detail: fmt.Sprintf("pid %d, gid %d, program %s", p.PID, p.GID, quoted(program)),
	}
	if unknown != nil {
		program = "" // no rule has an empty path to match
	}
	for _, r := range a.peers {
		if r.Path != "" && unknown != nil || !r.matches(p, program) {
			continue
		}
		if caller.ID.IsZero() {
			caller.ID = r.ID
		}
		caller.Grants = append(caller.Grants, r.ID)
	}
	if caller.ID.IsZero() {
		return nil, refuse(PeerUnknown, "no rule for uid %d, %s", p.UID, caller.Detail)
	}
	if err := p.Check(); err != nil {
		return nil, refuse(PeerUnknown, "%w", err)
	}
	return caller, nil
}
