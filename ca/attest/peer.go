package attest

import (
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/unixpeer"
)

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

func (r PeerRule) matches(p *unixpeer.Peer, program string) bool {
	return (r.UID == nil || *r.UID == p.UID) && (r.GID == nil || *r.GID == p.GID) && (r.Path == "" || r.Path == program)
}

// peer says who a local process is: the first rule that matches it counts, the others are what it may ask for besides.
func (a *Attestor) peer(p *unixpeer.Peer) (*Caller, *Error) {
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
