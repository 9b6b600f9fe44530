package sds_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// conversation is a client of one stream, of either variant: of questions Q and answers A.
type conversation[Q, A any] struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[Q, A]
	in     chan *A
	err    chan error
	names  func(*A) string // of the secrets in an answer, for failures
}

// converse opens a stream that lasts as long as the test.
func converse[Q, A any](
	t *testing.T, open func(context.Context, ...grpc.CallOption) (grpc.BidiStreamingClient[Q, A], error), names func(*A) string,
) *conversation[Q, A] {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	s := &conversation[Q, A]{t: t, stream: must[grpc.BidiStreamingClient[Q, A]](t)(open(ctx)), in: make(chan *A, 64), err: make(chan error, 1), names: names}
	go func() {
		for {
			r, err := s.stream.Recv()
			if err != nil {
				s.err <- err
				return
			}
			s.in <- r
		}
	}()
	return s
}

// send asks. A stream that has ended already says io.EOF: why it ended is for next and end to tell.
func (s *conversation[Q, A]) send(r *Q) {
	s.t.Helper()
	if err := s.stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
		s.t.Fatal(err)
	}
}

// next waits for a response.
func (s *conversation[Q, A]) next() *A {
	s.t.Helper()
	select {
	case r := <-s.in:
		return r
	case err := <-s.err:
		s.t.Fatalf("the stream ended: %v", err)
	case <-time.After(patience):
		s.t.Fatal("no response")
	}
	return nil
}

// end waits for the end of the stream, and returns what it says.
func (s *conversation[Q, A]) end(want codes.Code) string {
	s.t.Helper()
	select {
	case r := <-s.in:
		s.t.Fatalf("a response instead of the end: %v", s.names(r))
	case err := <-s.err:
		if status.Code(err) != want {
			s.t.Fatalf("the stream ended with %v, want %v", err, want)
		}
		return status.Convert(err).Message()
	case <-time.After(patience):
		s.t.Fatal("the stream goes on")
	}
	return ""
}

// silent fails the test if anything has come.
func (s *conversation[Q, A]) silent() {
	s.t.Helper()
	select {
	case r := <-s.in:
		s.t.Fatalf("an unexpected response: %v", s.names(r))
	case err := <-s.err:
		s.t.Fatalf("the stream ended: %v", err)
	default:
	}
}

// quiet makes sure that nothing is sent, as far as another stream tells: what was due on this one came before.
func (f *fixture) quiet(s interface{ silent() }) {
	f.t.Helper()
	other := f.sotw()
	f.setBundle(f.bump(), nil)
	other.ask(nil, "writ.bundle")
	other.next()
	f.setBundle(f.bump(), nil)
	other.next()
	s.silent()
}
