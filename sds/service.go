package sds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ServiceName is Envoy's Secret Discovery Service.
const ServiceName = "envoy.service.secret.v3.SecretDiscoveryService"

// serviceDesc is the service with our own messages in the place of the generated ones: see codec.
func serviceDesc() *grpc.ServiceDesc {
	stream := func(name string, delta bool) grpc.StreamDesc {
		return grpc.StreamDesc{StreamName: name, ServerStreams: true, ClientStreams: true, Handler: func(srv any, wire grpc.ServerStream) error {
			return srv.(*Server).stream(wire, delta)
		}}
	}
	return &grpc.ServiceDesc{
		ServiceName: ServiceName,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "FetchSecrets", Handler: fetchSecrets}},
		Streams:     []grpc.StreamDesc{stream("StreamSecrets", false), stream("DeltaSecrets", true)},
		Metadata:    "envoy/service/secret/v3/sds.proto",
	}
}

// stream is one StreamSecrets or DeltaSecrets call, from its begin to its end.
func (s *Server) stream(wire grpc.ServerStream, delta bool) error {
	caller, refused := s.caller(wire.Context())
	if refused != nil {
		return s.turnAway(caller, "", refused)
	}
	st := &stream{server: s, wire: wire, delta: delta, caller: caller, opened: s.cfg.Now()}
	if caller.Peer != nil {
		st.program, _ = caller.Peer.Program() // for people; "" where it cannot be told
	}
	// What ends the stream from another goroutine. gRPC's own streams can be ended by their status, which wakes up whoever
	// waits for the next request: that saves a second goroutine on every stream. Others end when their call returns.
	if own, ok := grpc.ServerTransportStreamFromContext(wire.Context()).(interface{ WriteStatus(*status.Status) error }); ok {
		st.cancel = func(r *refusal) { _ = own.WriteStatus(status.New(r.code, r.Error())) } // fails if it has ended already
		if refused := s.open(st); refused != nil {
			return s.turnAway(caller, "", refused)
		}
		return s.close(st, st.receive())
	}
	ended, left := make(chan struct{}), make(chan error, 1)
	st.cancel = func(*refusal) { close(ended) }
	if refused := s.open(st); refused != nil {
		return s.turnAway(caller, "", refused)
	}
	go func() { left <- st.receive() }()
	select {
	case err := <-left:
		return s.close(st, err)
	case <-ended:
		return s.close(st, nil)
	}
}

// receive handles requests until the client leaves, or the stream is ended.
func (st *stream) receive() error {
	r := &request{delta: st.delta}
	for {
		if err := st.wire.RecvMsg(r); err != nil {
			return err
		}
		if refused := st.handle(r); refused != nil {
			return refused
		}
	}
}

// open makes a stream one that is told of changes, if there is room.
func (s *Server) open(st *stream) *refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == 0 {
		return refuse(codes.Unavailable, ReasonUncertain, "the server is starting or stopping")
	}
	if refused := s.enter(st.caller.key()); refused != nil {
		return refused
	}
	s.streams[st] = struct{}{}
	s.cfg.Logger.Debug("an SDS stream was opened", "protocol", st.protocol(), "caller", st.caller, "program", st.program)
	return nil
}

// enter counts a call, if there is room. Callers hold mu.
func (s *Server) enter(key string) *refusal {
	switch {
	case s.calls >= s.cfg.MaxStreams:
		return refuse(codes.ResourceExhausted, ReasonLimit, fmt.Sprintf("more than %d calls", s.cfg.MaxStreams))
	case s.perCaller[key] >= s.cfg.MaxPerCaller:
		return refuse(codes.ResourceExhausted, ReasonLimit, fmt.Sprintf("more than %d calls of one caller", s.cfg.MaxPerCaller))
	}
	s.calls++
	s.perCaller[key]++
	return nil
}

// leave forgets a call that was counted. Callers hold mu.
func (s *Server) leave(key string) {
	s.calls--
	if s.perCaller[key]--; s.perCaller[key] == 0 {
		delete(s.perCaller, key)
	}
}

// close ends a stream for good, and returns what its call answers. After it nothing is sent any more.
func (s *Server) close(st *stream, err error) error {
	st.mu.Lock()
	if refused, ok := err.(*refusal); ok && st.ended == nil { //nolint:errorlint // receive returns it as it is
		st.ended = refused
	}
	ended := st.ended
	if ended == nil {
		st.ended = refuse(codes.Canceled, ReasonCaller, "the client left")
	}
	left := st.wire.Context().Err() != nil && ended == nil
	node := st.node
	s.inventory.remember(st)
	st.mu.Unlock()

	s.mu.Lock()
	delete(s.streams, st)
	s.leave(st.caller.key())
	s.mu.Unlock()

	s.cfg.Logger.Debug("an SDS stream ended", "protocol", st.protocol(), "caller", st.caller, "node", node, "error", err)
	switch {
	case ended != nil:
		if !ended.noted {
			s.refused(st.caller, node, "", ended)
		}
		return ended.status()
	case left || errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// turnAway refuses a whole call, and returns what it answers.
func (s *Server) turnAway(c *Caller, node string, r *refusal) error {
	s.refused(c, node, "", r)
	return r.status()
}

func (r *refusal) status() error { return status.Error(r.code, r.Error()) }

// fetchSecrets is FetchSecrets as gRPC calls it.
func fetchSecrets(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // gRPC says in which order
	s, r := srv.(*Server), &request{}
	if err := decode(r); err != nil {
		return nil, err
	}
	if intercept == nil {
		return s.fetch(ctx, r)
	}
	return intercept(ctx, r, &grpc.UnaryServerInfo{Server: s, FullMethod: "/" + ServiceName + "/FetchSecrets"},
		func(ctx context.Context, _ any) (any, error) { return s.fetch(ctx, r) })
}

// fetch answers once, as soon as all that was asked for is there.
func (s *Server) fetch(ctx context.Context, r *request) (*response, error) {
	caller, refused := s.caller(ctx)
	if refused != nil {
		return nil, s.turnAway(caller, "", refused)
	}
	s.mu.Lock()
	refused = s.enter(caller.key())
	s.mu.Unlock()
	if refused != nil {
		return nil, s.turnAway(caller, r.node, refused)
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.leave(caller.key())
	}()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.FetchTimeout)
	defer cancel()
	for {
		changed := s.cfg.Vault.Changed()
		answer, wait, refused := s.fetchNow(caller, r)
		switch {
		case refused != nil:
			return nil, s.turnAway(caller, r.node, refused)
		case wait == "":
			return answer, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, status.Error(codes.Unavailable, "not there yet: "+wait)
		}
	}
}

// fetchNow answers from what there is, or says what is still missing.
func (s *Server) fetchNow(caller *Caller, r *request) (answer *response, wait string, refused *refusal) {
	if r.bad != nil {
		return nil, "", refuse(codes.InvalidArgument, ReasonRequest, r.bad.Error())
	}
	if r.typeURL != "" && r.typeURL != typeURL {
		return nil, "", wrongType(r.typeURL)
	}
	e, refused := s.entitled(caller)
	if refused != nil {
		return nil, "", refused
	}
	c := s.cfg.Vault.load()
	names := slices.DeleteFunc(slices.Clone(r.names), isWildcard)
	if len(names) == 0 || len(names) < len(r.names) {
		names = append(names, s.everything(c, caller, &e)...)
	}
	if len(names) == 0 && !e.Bundles {
		return nil, "", notTheirs(&e, "anything that can be sent here")
	}
	slices.Sort(names)
	var resources []resource
	for _, name := range slices.Compact(names) {
		f := s.find(c, caller, &e, name)
		switch {
		case f.refused != nil:
			return nil, "", f.refused
		case f.secret == nil:
			return nil, f.wait, nil
		}
		resources = append(resources, resource{name, f.secret})
	}
	if len(resources) == 0 {
		return nil, s.why(s.cfg.TrustDomain), nil
	}
	slices.SortStableFunc(resources, func(a, b resource) int { return a.secret.kind.order() - b.secret.kind.order() })
	version := versionOf(resources)
	return newResponse(false, version, version, resources, nil), "", nil
}
