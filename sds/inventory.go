package sds

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// Inventory knows what every stream holds: which version of which secret was sent, acknowledged and rejected, what is
// waited for, and who was refused what. It is safe for concurrent use.
type Inventory struct {
	server    *Server
	refusals  refusals
	followers followers
}

func newInventory(s *Server) *Inventory {
	return &Inventory{
		server: s, refusals: refusals{list: map[refusalKey]*Refusal{}}, followers: followers{gone: map[followerKey]follower{}},
	}
}

// Snapshot is what the inventory holds at one moment. It is for people, and holds nothing secret.
type Snapshot struct {
	Streams  []StreamStatus `json:"streams"`
	Refusals []Refusal      `json:"refusals,omitempty"` // latest first
}

// StreamStatus is one open stream.
type StreamStatus struct {
	Caller   string         `json:"caller"`        // for people
	PID      int            `json:"pid,omitempty"` // of a Unix socket's peer, as are the next two
	UID      uint32         `json:"uid,omitempty"`
	Program  string         `json:"program,omitempty"`
	ID       spiffeid.ID    `json:"id,omitzero"` // of the client's certificate
	Address  string         `json:"address,omitempty"`
	Node     string         `json:"node,omitempty"`
	Protocol string         `json:"protocol"` // sotw, delta
	Since    time.Time      `json:"since"`
	Secrets  []SecretStatus `json:"secrets"`
}

// SecretStatus is one secret on one stream.
type SecretStatus struct {
	Name    string    `json:"name"`
	Kind    Kind      `json:"kind,omitempty"` // empty while nothing was sent
	Sent    string    `json:"sent,omitempty"` // version
	SentAt  time.Time `json:"sent_at,omitzero"`
	Acked   string    `json:"acked,omitempty"` // version
	AckedAt time.Time `json:"acked_at,omitzero"`
	// NotAfter is when the first certificate or CRL in what was sent ends.
	NotAfter time.Time `json:"not_after,omitzero"`

	Rejected   string    `json:"rejected,omitempty"` // version, while it was not followed by an acknowledgement
	Rejections int       `json:"rejections,omitempty"`
	RejectedAt time.Time `json:"rejected_at,omitzero"` // last
	Error      string    `json:"error,omitempty"`      // of the last rejection; at most 512 bytes

	Waiting string    `json:"waiting,omitempty"` // why nothing can be sent yet
	Refused string    `json:"refused,omitempty"` // why nothing will be sent
	Since   time.Time `json:"waiting_since,omitzero"`
}

// Snapshot describes all streams, and the latest refusals. Streams are in the order in which they were opened.
func (i *Inventory) Snapshot() Snapshot {
	var out Snapshot
	for _, st := range i.server.all() {
		out.Streams = append(out.Streams, st.status())
	}
	slices.SortStableFunc(out.Streams, func(a, b StreamStatus) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.Caller, b.Caller))
	})
	out.Refusals = i.refusals.all()
	return out
}

func (st *stream) status() StreamStatus {
	st.mu.Lock()
	defer st.mu.Unlock()
	out := StreamStatus{
		Caller: st.caller.String(), ID: st.caller.ID, Address: st.caller.Address, Program: st.program, Node: st.node,
		Protocol: st.protocol(), Since: st.opened,
	}
	if p := st.caller.Peer; p != nil {
		out.PID, out.UID = p.PID, p.UID
	}
	for n := range st.subs {
		secret := st.subs[n].status()
		if secret.Waiting != "" { // for a reason of now: it may have become another since the stream last looked
			secret.Waiting = cmp.Or(st.server.find(st.contents, st.caller, &st.entitlement, secret.Name).wait, secret.Waiting)
		}
		out.Secrets = append(out.Secrets, secret)
	}
	return out
}

func (s *subscription) status() SecretStatus {
	out := SecretStatus{
		Name: s.name, SentAt: s.sentAt, AckedAt: s.ackedAt, Rejections: s.rejections, RejectedAt: s.rejectedAt, Error: s.failure,
		Waiting: s.wait, Refused: s.refused,
	}
	if s.wait != "" || s.refused != "" {
		out.Since = s.since
	}
	if s.sent != nil {
		out.Kind, out.Sent, out.NotAfter = s.sent.kind, s.sent.version, s.sent.notAfter
	}
	if s.acked != nil {
		out.Acked = s.acked.version
	}
	if s.rejected != nil {
		out.Rejected = s.rejected.version
	}
	return out
}
