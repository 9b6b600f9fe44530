package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/sds"
)

const (
	bundleName = "writ.bundle" // what authorities call the secret with the bundle document
	secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	userAgent  = "writ-agent"

	// unservedAgain is when to look again whether an authority that serves no bundles has learned to.
	unservedAgain = 10 * time.Minute
	// consumersTime is how long local consumers may take with a new bundle before the authority is told who is in the way.
	consumersTime  = 30 * time.Second
	consumersEvery = 250 * time.Millisecond // between looks at what they have
	consumersNamed = 5                      // at most, of those that are behind

	// replicaTime is how long an authority may offer an older bundle than the one that is in force here: replicas follow
	// each other within ten seconds. One that goes on is not late, but back in time.
	replicaTime = time.Minute
)

// followStatus is how the stream of bundles is doing. The agent's mutex guards it.
type followStatus struct {
	address   string
	connected bool // a bundle came on the stream that is open
	acked     int64
	waiting   string // who is behind
	err       error
	errTime   time.Time
}

var (
	errRenewed  = errors.New("the agent has a new certificate")
	errCaughtUp = errors.New("all local consumers have the bundle by now")
)

// follow keeps a stream of bundles from one of the authorities until ctx ends. New roots, tainted ones, CRLs and JWT keys
// come this way within a round trip; roots alone also come with every certificate.
func (a *Agent) follow(ctx context.Context) {
	failures, turn, said := 0, 0, ""
	for ctx.Err() == nil {
		own := a.ownCertificate()
		if own == nil {
			a.pause(ctx, lookEvery)
			continue
		}
		address := a.links.address(turn)
		came, err := a.stream(ctx, address, own)
		a.trust.streaming(false)
		if came {
			failures = 0
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errRenewed), errors.Is(err, errCaughtUp):
			continue
		}
		failures++
		turn++
		wait := backoff(retryLeast, retryMost, failures, chance())
		if status.Code(err) == codes.Unimplemented {
			wait = unservedAgain + spread(4*spreadMost, chance())
			a.trust.unserved()
		}
		a.followed(func(f *followStatus) { f.connected, f.err, f.errTime = false, err, time.Now() })
		level := slog.LevelInfo
		if said == err.Error() {
			level = slog.LevelDebug
		}
		said = err.Error()
		a.log.Log(ctx, level, "no bundle from this authority: the last one stays, with the roots that certificates need", "authority", address, "error", err, "again", wait.Round(time.Millisecond))
		a.pause(ctx, wait)
	}
}

// pause waits, or until there is a new certificate to connect with.
func (a *Agent) pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-a.renewed:
	case <-time.After(d):
	}
}

func (a *Agent) followed(do func(*followStatus)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	do(&a.following)
}

// address is that of an authority, counted from the one that answered last.
func (l *links) address(turn int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cfg.Authorities[(l.sticky+turn)%len(l.cfg.Authorities)]
}

// stream follows one authority until something ends it. It reports whether a bundle came.
func (a *Agent) stream(ctx context.Context, address string, own *held) (came bool, err error) {
	c, err := a.links.acquire(address, own)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	received := make(chan *discoveryv3.DiscoveryResponse)
	ended := make(chan error, 1)
	done := make(chan struct{})
	defer func() { // in this order: nobody receives on a connection that was given back
		cancel()
		<-done
		a.links.release(c, err != nil && isOutage(err))
	}()
	calls, err := secretv3.NewSecretDiscoveryServiceClient(c.conn).StreamSecrets(ctx)
	if err != nil {
		close(done)
		return false, fmt.Errorf("%s: %w", address, err)
	}
	go func() {
		defer close(done)
		for {
			r, err := calls.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case received <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	f := &follower{agent: a, calls: calls, address: address}
	if err := f.send(own, "", nil); err != nil && !errors.Is(err, io.EOF) { // after io.EOF, Recv has the reason
		return false, err
	}
	for {
		select {
		case <-ctx.Done():
			return f.came, ctx.Err()
		case err := <-ended:
			return f.came, fmt.Errorf("%s: %w", address, err)
		case <-a.renewed:
			if a.ownCertificate() != own {
				return f.came, errRenewed
			}
			continue
		case r := <-received:
			f.take(ctx, r)
		case <-f.look:
		}
		if f.settle() {
			return f.came, errCaughtUp
		}
	}
}

// follower is one stream of bundles.
type follower struct {
	agent   *Agent
	calls   secretv3.SecretDiscoveryService_StreamSecretsClient
	address string
	came    bool

	accepted string                         // version of the last answer that was acknowledged
	pending  *discoveryv3.DiscoveryResponse // in force here, not yet with all local consumers
	bundle   *sds.Bundle                    // of pending
	since    time.Time                      // when it came
	nacked   bool                           // the authority was told that it is not with all
	older    error                          // the authority offers a bundle from before the one in force; nil if it does not
	look     <-chan time.Time               // when to look again whether all of this is so
}

// send asks for the bundle, or answers r.
func (f *follower) send(own *held, version string, r *discoveryv3.DiscoveryResponse) error {
	request := &discoveryv3.DiscoveryRequest{
		TypeUrl: secretType, ResourceNames: []string{bundleName}, VersionInfo: version, ResponseNonce: r.GetNonce(),
	}
	if own != nil {
		request.Node = &corev3.Node{Id: own.identity.ID.String(), UserAgentName: userAgent}
	}
	return f.calls.Send(request)
}

// take puts a bundle in force, or refuses it.
func (f *follower) take(ctx context.Context, r *discoveryv3.DiscoveryResponse) {
	a := f.agent
	changed := false
	b, err := bundleOf(r)
	if err == nil {
		changed, err = a.trust.ofDocument(b)
	}
	f.older = nil
	if err != nil {
		if errors.Is(err, errOlder) {
			f.older = err
			a.log.InfoContext(ctx, "this authority has an older bundle than the one in force, which stays", "authority", f.address)
		} else {
			a.log.ErrorContext(ctx, "a bundle is refused, the one before stays in force", "authority", f.address, "error", err)
		}
		a.followed(func(s *followStatus) { s.err, s.errTime = err, time.Now() })
		f.nack(r, err.Error())
		return
	}
	if changed {
		a.log.InfoContext(ctx, "bundle", "version", b.Version, "roots", len(b.Roots), "tainted", len(b.Tainted), "crls", len(b.CRLs), "authority", f.address)
	}
	a.olderSince = time.Time{}
	f.came, f.pending, f.bundle, f.since, f.nacked = true, r, b, time.Now(), false
	a.followed(func(s *followStatus) { s.address, s.connected, s.err = f.address, true, nil })
	if changed {
		a.bundleChanged()
	}
}

// settle acknowledges the bundle once nobody here is behind: what the authority hears is what root rotation goes by
// (identity §5.2), so it must not hear more than is so. If that takes too long it hears who is in the way; and as a bundle
// that was refused is not acknowledged afterwards (identity §4.3), settle then reports that it is time for a new stream.
func (f *follower) settle() (again bool) {
	f.look = nil
	f.complain()
	if f.pending == nil {
		return false
	}
	behind := f.behind()
	if behind != "" {
		f.look = time.After(consumersEvery)
	}
	f.agent.followed(func(s *followStatus) { s.waiting = behind })
	switch {
	case behind == "" && f.nacked:
		return true
	case behind == "":
		f.accepted = f.pending.GetVersionInfo()
		_ = f.send(nil, f.accepted, f.pending) // a stream that ended tells so when it is received from
		version := f.bundle.Version
		f.agent.followed(func(s *followStatus) { s.acked = version })
		f.pending, f.bundle = nil, nil
	case !f.nacked && time.Since(f.since) >= consumersTime:
		f.nacked = true
		f.nack(f.pending, "local consumers do not have the bundle: "+behind)
	}
	return false
}

// complain raises the alarm over an authority that is back in time, once, when it has had time to catch up.
func (f *follower) complain() {
	if f.older == nil {
		return
	}
	a, now := f.agent, time.Now()
	if a.olderSince.IsZero() {
		a.olderSince = now
	}
	if left := a.olderSince.Add(replicaTime).Sub(now); left > 0 {
		f.look = time.After(left)
		return
	}
	a.log.Error("a bundle is refused, the one before stays in force", "authority", f.address, "error", f.older)
	f.older = nil
}

// behind says which local consumers have not acknowledged the bundle, empty if all did. Those that left do not count: they
// are given the newest one when they are back.
func (f *follower) behind() string {
	if f.agent.cfg.Consumers == nil {
		return ""
	}
	var names []string
	for _, c := range f.agent.cfg.Consumers() {
		if c.Connected && c.Bundle < f.bundle.Version && !slices.Contains(names, c.Name) {
			names = append(names, c.Name)
		}
	}
	text := strings.Join(names[:min(len(names), consumersNamed)], ", ")
	if more := len(names) - consumersNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// nack tells the authority why its bundle is not with everybody here.
func (f *follower) nack(r *discoveryv3.DiscoveryResponse, why string) {
	const most = 1 << 10
	request := &discoveryv3.DiscoveryRequest{
		TypeUrl: secretType, ResourceNames: []string{bundleName}, VersionInfo: f.accepted, ResponseNonce: r.GetNonce(),
		ErrorDetail: &rpcstatus.Status{Code: int32(codes.FailedPrecondition), Message: why[:min(len(why), most)]},
	}
	_ = f.calls.Send(request) // see settle
}

// bundleOf takes the bundle document out of an answer.
func bundleOf(r *discoveryv3.DiscoveryResponse) (*sds.Bundle, error) {
	if len(r.GetResources()) != 1 {
		return nil, fmt.Errorf("an answer of %d secrets: want one", len(r.GetResources()))
	}
	var secret tlsv3.Secret
	if err := r.GetResources()[0].UnmarshalTo(&secret); err != nil {
		return nil, err
	}
	if secret.GetName() != bundleName {
		return nil, fmt.Errorf("the secret %.100q: want %s", secret.GetName(), bundleName)
	}
	return sds.DecodeBundle(secret.GetGenericSecret().GetSecret().GetInlineBytes())
}
