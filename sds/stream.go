package sds

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// maxUnanswered is how many bytes of responses a client may leave without an answer before it gets no further one. It is
// half of what gRPC queues for a stream without waiting, so that sending to a client that does not read never blocks.
const maxUnanswered = 32 << 10

// responseOverhead is what a response counts at least for, beside its bytes.
const responseOverhead = 512

// stream is one StreamSecrets or DeltaSecrets call. Requests are handled on the call's goroutine, changes of what there is
// on that of [Server.Run]; each finds out by comparing whether there is something to send.
type stream struct {
	server  *Server
	wire    grpc.ServerStream
	cancel  func(*refusal) // ends the call; called once, with mu held
	caller  *Caller
	program string // of the caller; empty if unknown
	delta   bool
	opened  time.Time

	mu          sync.Mutex // guards what follows
	ended       *refusal   // nil while requests are answered
	node        string
	started     bool // the first request was read
	entitlement Entitlement
	wildcard    bool // the client asked for everything, without naming it
	subs        []subscription
	nonce       uint64     // of the last response; 0 before the first
	unanswered  []delivery // oldest first
	backlog     int        // bytes of the responses that are unanswered
	due         bool       // an answer is owed as soon as the backlog is short enough, changed content or not
	gone        []string   // DeltaSecrets: what the wildcard implied and was sent, and is to be taken back
	contents    *contents  // that were last looked at; not nil once it is started
}

// subscription is one secret on one stream.
type subscription struct {
	name    string
	implied bool // by the wildcard
	trust   bool // it is of a kind that goes out before identities

	sent     *secret // last; nil before the first, and after a removal
	acked    *secret // last
	rejected *secret // nil unless the last answer was a rejection
	removed  bool    // DeltaSecrets: the client was told that there is none

	sentAt, ackedAt, rejectedAt time.Time
	rejections                  int
	failure                     string    // text of the last rejection
	wait                        string    // why nothing was sent, empty if something was
	refused                     string    // why nothing will be sent
	since                       time.Time // of wait or refused
}

// delivery is a response that the client has not answered yet.
type delivery struct {
	nonce     string
	size      int
	resources []resource
}

// handle answers one request.
func (st *stream) handle(r *request) *refusal {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended != nil {
		return st.ended
	}
	switch {
	case r.bad != nil:
		return refuse(codes.InvalidArgument, ReasonRequest, r.bad.Error())
	case r.typeURL != "" && r.typeURL != typeURL:
		return wrongType(r.typeURL)
	}
	st.node = cmp.Or(r.node, st.node) // Envoy may send it once only
	first := !st.started
	if first {
		var refused *refusal
		if st.entitlement, refused = st.server.entitled(st.caller); refused != nil {
			return refused
		}
		st.started = true
	}
	c := st.server.current.Load()
	if st.onlyTrust(r.names) {
		c = st.server.cfg.Vault.load() // roots may be early
	}
	if st.contents != nil && c.generation < st.contents.generation {
		c = st.contents // never go back
	}
	st.contents = c
	if st.delta {
		return st.handleDelta(c, r, first)
	}
	return st.handleSotW(c, r, first)
}

// onlyTrust reports whether a stream, with some more names, has nothing but what verifies others.
func (st *stream) onlyTrust(names []string) bool {
	trust := !st.wildcard && len(st.subs)+len(names) > 0
	for i := range st.subs {
		trust = trust && st.subs[i].trust
	}
	for _, name := range names {
		trust = trust && st.server.isTrust(name)
	}
	return trust
}

func wrongType(asked string) *refusal {
	return refuse(codes.InvalidArgument, ReasonRequest, fmt.Sprintf("type %.200q is not served here: want %s", asked, typeURL))
}

// update sends what has changed: the contents, or what the caller may have of them. While trust is set, streams that carry
// nothing but identities stay with the contents that they have.
func (st *stream) update(c *contents, entitlement, trust bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended != nil || !st.started || c.generation <= st.contents.generation && !entitlement {
		return
	}
	if c.generation < st.contents.generation {
		c = st.contents
	}
	if entitlement {
		var refused *refusal
		if st.entitlement, refused = st.server.entitled(st.caller); refused != nil {
			st.end(refused)
			return
		}
	}
	if trust && !slices.ContainsFunc(st.subs, func(s subscription) bool { return s.trust }) {
		c = st.contents
	}
	if refused := st.answer(c); refused != nil {
		st.end(refused)
	}
}

// end has the call return r. Callers hold mu.
func (st *stream) end(r *refusal) {
	if st.ended != nil {
		return
	}
	if !r.noted {
		st.server.refused(st.caller, st.node, "", r)
	}
	st.ended = r
	st.cancel(r)
}

// answer sends what the client lacks, if anything. It is asked after every request and every change. Callers hold mu.
func (st *stream) answer(c *contents) *refusal {
	st.contents = c
	gone := st.expand(c)
	p := plan{changed: st.due}
	for i := range st.subs {
		sub := &st.subs[i]
		f := st.server.find(c, st.caller, &st.entitlement, sub.name)
		st.note(sub, f)
		if st.delta {
			p.addDelta(sub, f)
		} else {
			p.addSotW(sub, f)
		}
	}
	if refused := st.refuses(&p, gone); refused != nil {
		return refused
	}
	if st.backlog >= maxUnanswered {
		return nil // the client's next answer leads here again
	}
	st.due = false
	return st.send(&p)
}

// plan is what an answer is to say.
type plan struct {
	resources []planned
	removed   []*subscription
	changed   bool     // something of it is news to the client
	allowed   int      // names that are not refused
	refused   *refusal // the first of those that are
	lost      *refusal // the first of those that are by now, and were sent before
}

type planned struct {
	sub    *subscription
	secret *secret
}

// refuses says whether the stream has to end for what the plan found out.
//
// Names that are refused beside others that are not are left out, so that one mistaken name does not take the others down;
// they show in the inventory.
func (st *stream) refuses(p *plan, gone []string) *refusal {
	switch {
	case p.lost != nil:
		return p.lost
	case len(gone) > 0 && !st.delta:
		return notTheirs(&st.entitlement, "all of what was sent")
	case st.wildcard && len(st.subs) == 0 && (!st.delta || st.nonce == 0) && !st.entitlement.Bundles:
		return notTheirs(&st.entitlement, "anything that can be sent here")
	case p.refused != nil && p.allowed == 0 && (!st.delta || st.nonce == 0):
		return p.refused
	}
	return nil
}

// send puts the plan on the wire: roots first.
func (st *stream) send(p *plan) *refusal {
	removed := st.gone
	for _, sub := range p.removed {
		removed = append(removed, sub.name)
	}
	if !p.changed && len(removed) == 0 || len(p.resources)+len(removed) == 0 {
		return nil
	}
	slices.SortStableFunc(p.resources, func(a, b planned) int { return a.secret.kind.order() - b.secret.kind.order() })
	d := delivery{resources: make([]resource, 0, len(p.resources))}
	keys := false
	for _, each := range p.resources {
		d.resources = append(d.resources, resource{each.sub.name, each.secret})
		keys = keys || each.secret.kind == KindIdentity
	}
	if keys {
		if refused := st.server.stillThere(st.caller); refused != nil {
			return refused
		}
	}
	st.nonce++
	d.nonce = strconv.FormatUint(st.nonce, 10)
	r := newResponse(st.delta, versionOf(d.resources), d.nonce, d.resources, removed)
	d.size = r.size + responseOverhead
	if err := st.wire.SendMsg(r); err != nil {
		return refuse(codes.Unavailable, ReasonCaller, fmt.Sprintf("the connection failed: %v", err))
	}
	st.unanswered = append(st.unanswered, d)
	st.backlog += d.size
	st.gone = nil
	for _, sub := range p.removed {
		sub.sent, sub.removed = nil, true
	}
	now := st.server.cfg.Now()
	for _, each := range p.resources {
		each.sub.sent, each.sub.sentAt, each.sub.removed = each.secret, now, false
		st.server.counts.pushes[each.secret.kind.order()].Add(1)
	}
	return nil
}

// versionOf is the version of a response: that of its only resource, or a digest of all.
func versionOf(resources []resource) string {
	switch len(resources) {
	case 0:
		return ""
	case 1:
		return resources[0].secret.version
	}
	h := sha256.New()
	for _, r := range resources {
		fmt.Fprintf(h, "%s=%s\n", r.name, r.secret.version)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// settle takes a client's answer to a response: nil for an acknowledgement, else the text of its rejection.
func (st *stream) settle(d delivery, failure *string) {
	now := st.server.cfg.Now()
	for _, r := range d.resources {
		i, ok := st.find(r.name)
		if !ok {
			continue
		}
		sub := &st.subs[i]
		if failure != nil {
			sub.rejected, sub.rejectedAt, sub.failure = r.secret, now, *failure
			sub.rejections++
			st.server.counts.nacks[r.secret.kind.order()].Add(1)
			st.server.cfg.Logger.Warn("a proxy rejected a secret; it is not sent again until it changes", "caller", st.caller, "node", st.node,
				"protocol", st.protocol(), "secret", r.name, "version", r.secret.version, "error", *failure)
			continue
		}
		sub.acked, sub.ackedAt, sub.rejected = r.secret, now, nil
		sub.sameBytes(sub.sent)
		st.server.counts.acks[r.secret.kind.order()].Add(1)
	}
}

// sameBytes has the subscription know a secret by its newer object, if what it has is the same: then the client has the
// bundle of a later version without being sent anything.
func (s *subscription) sameBytes(newer *secret) {
	for _, held := range []**secret{&s.sent, &s.acked, &s.rejected} {
		if *held != nil && newer != nil && (*held).version == newer.version {
			*held = newer
		}
	}
}

// note keeps what was found for status, and logs a refusal once.
func (st *stream) note(sub *subscription, f found) {
	wait, refused := f.wait, ""
	if f.refused != nil {
		refused = f.refused.detail
	}
	if (sub.wait == "") != (wait == "") || sub.refused != refused {
		sub.since = st.server.cfg.Now()
		if f.refused != nil {
			st.server.refused(st.caller, st.node, sub.name, f.refused)
		}
	}
	sub.wait, sub.refused = wait, refused
	sub.sameBytes(f.secret)
}

// find returns the place of a subscription.
func (st *stream) find(name string) (int, bool) {
	return slices.BinarySearchFunc(st.subs, name, func(s subscription, name string) int { return strings.Compare(s.name, name) })
}

// subscribe adds a subscription, or returns the one that there is.
func (st *stream) subscribe(name string, implied bool) *subscription {
	i, ok := st.find(name)
	if !ok {
		st.subs = slices.Insert(st.subs, i, subscription{name: name, trust: st.server.isTrust(name), implied: implied})
	}
	if !implied {
		st.subs[i].implied = false
	}
	return &st.subs[i]
}

// expand adds and drops the subscriptions that the wildcard implies, and names those of the dropped that were sent: as
// long as the delta client was not told, they are kept in gone.
func (st *stream) expand(c *contents) (gone []string) {
	var all []string
	if st.wildcard {
		all = st.server.everything(c, st.caller, &st.entitlement)
	}
	st.subs = slices.DeleteFunc(st.subs, func(s subscription) bool {
		drop := s.implied && !slices.Contains(all, s.name)
		if drop && s.sent != nil {
			gone = append(gone, s.name)
		}
		return drop
	})
	for _, name := range all {
		st.subscribe(name, true)
	}
	if st.delta {
		st.gone = append(st.gone, gone...)
	}
	return gone
}

func (st *stream) protocol() string {
	if st.delta {
		return "delta"
	}
	return "sotw"
}
