package agent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/unixpeer"
	"github.com/writ-auth/writ/sds"
)

const maxWorkloads = 4096

// Workload gives an identity to local processes. At least one of UID, GID, Path and SHA256 must be set; those that are
// must all match. Processes that match several may have all their identities, the first being the default.
type Workload struct {
	ID     spiffeid.ID
	UID    *uint32
	GID    *uint32 // the primary group: the kernel tells no other
	Path   string  // of the program, absolute, with symbolic links resolved
	SHA256 string  // of the program's file, 64 hexadecimal digits in lower case
}

func (w *Workload) check(domain spiffeid.ID) error {
	if err := checkWanted(w.ID, domain); err != nil {
		return err
	}
	switch sum, err := hex.DecodeString(w.SHA256); {
	case w.UID == nil && w.GID == nil && w.Path == "" && w.SHA256 == "":
		return fmt.Errorf("%s: want a uid, a gid, a path or a sha256: without, every process would match", w.ID)
	case w.Path != "" && (!filepath.IsAbs(w.Path) || filepath.Clean(w.Path) != w.Path):
		return fmt.Errorf("%s: path %q: want an absolute one, without dots", w.ID, w.Path)
	case w.SHA256 != "" && (err != nil || len(sum) != 32 || strings.ToLower(w.SHA256) != w.SHA256):
		return fmt.Errorf("%s: sha256 %.80q: want 64 hexadecimal digits in lower case, as sha256sum prints them", w.ID, w.SHA256)
	}
	return nil
}

// Workloads says which local process may have which identity; default deny. It implements [sds.Authorizer].
type Workloads struct {
	domain   spiffeid.ID
	programs programs

	mu      sync.Mutex // guards what follows
	rules   []Workload
	changed chan struct{}
}

// NewWorkloads checks the rules.
func NewWorkloads(domain spiffeid.ID, rules []Workload) (*Workloads, error) {
	w := &Workloads{domain: domain, changed: make(chan struct{})}
	return w, w.Set(rules)
}

// Set puts other rules in force, or none of them if one is wrong.
func (w *Workloads) Set(rules []Workload) error {
	if len(rules) > maxWorkloads {
		return fmt.Errorf("agent: %d workloads: want at most %d", len(rules), maxWorkloads)
	}
	for i := range rules {
		if err := rules[i].check(w.domain); err != nil {
			return fmt.Errorf("agent: workload %d: %w", i, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rules = slices.Clone(rules)
	close(w.changed)
	w.changed = make(chan struct{})
	return nil
}

// Identities are those that some process may have.
func (w *Workloads) Identities() []spiffeid.ID {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []spiffeid.ID
	for i := range w.rules {
		ids = append(ids, w.rules[i].ID)
	}
	slices.SortFunc(ids, compareIDs)
	return slices.Compact(ids)
}

// Changed implements [sds.Authorizer].
func (w *Workloads) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Entitled implements [sds.Authorizer]. What a process may have is found out anew each time: it may have become another
// program since it connected. The process is looked at first and its number last, so that one that took over the number
// in between is not taken for it (identity §11 surprise 30).
func (w *Workloads) Entitled(c *sds.Caller) (sds.Entitlement, error) {
	p := c.Peer
	if p == nil {
		return sds.Entitlement{Reason: fmt.Sprintf("%s: only processes of this machine get identities here, by the Unix socket", c.Address)}, nil
	}
	w.mu.Lock()
	rules := w.rules
	w.mu.Unlock()
	look := w.look(p, rules)
	var e sds.Entitlement
	for i := range rules {
		if r := &rules[i]; look.matches(r) && !slices.Contains(e.Identities, r.ID) {
			e.Identities = append(e.Identities, r.ID)
		}
	}
	if err := p.Check(); err != nil {
		return sds.Entitlement{}, err
	}
	if e.Bundles = len(e.Identities) > 0; !e.Bundles {
		e.Reason = look.refusal(len(rules))
	}
	return e, nil
}

// sight is what was found out about a process, and what could not be.
type sight struct {
	peer       *unixpeer.Peer
	program    string
	programErr error
	sum        string
	sumErr     error
}

// look finds out what the rules ask for, and no more.
func (w *Workloads) look(p *unixpeer.Peer, rules []Workload) *sight {
	s := &sight{peer: p}
	s.program, s.programErr = p.Program()
	for i := range rules {
		if r := &rules[i]; r.SHA256 != "" && s.matchesIDs(r) {
			s.sum, s.sumErr = w.programs.sum(p)
			break
		}
	}
	return s
}

func (s *sight) matchesIDs(r *Workload) bool {
	return (r.UID == nil || *r.UID == s.peer.UID) && (r.GID == nil || *r.GID == s.peer.GID)
}

// matches holds what is known of the process against a rule. What could not be found out matches nothing.
func (s *sight) matches(r *Workload) bool {
	return s.matchesIDs(r) &&
		(r.Path == "" || s.programErr == nil && s.program == r.Path) &&
		(r.SHA256 == "" || s.sumErr == nil && s.sum != "" && s.sum == r.SHA256)
}

// refusal says why no rule matches, for the operator.
func (s *sight) refusal(rules int) string {
	about := fmt.Sprintf("none of %d workloads matches uid %d, gid %d", rules, s.peer.UID, s.peer.GID)
	if s.programErr == nil {
		about += ", path " + s.program
	}
	if s.sum != "" {
		about += ", sha256 " + s.sum
	}
	if err := errors.Join(s.programErr, s.sumErr); err != nil {
		about += fmt.Sprintf(" (%v; rules with a path or a sha256 need CAP_SYS_PTRACE for processes of other users)", err)
	}
	return about + ": add an entry to workloads"
}
