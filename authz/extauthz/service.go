package extauthz

import (
	"context"

	"google.golang.org/grpc"
)

// serviceDesc is envoy.service.auth.v3.Authorization with frames for messages.
var serviceDesc = grpc.ServiceDesc{
	ServiceName: ServiceName,
	HandlerType: (*checker)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Check", Handler: handleCheck}},
	Metadata:    "envoy/service/auth/v3/external_auth.proto",
}

// checker is what handleCheck needs of a server.
type checker interface {
	checkFrame(ctx context.Context, decode func(any) error) (*frame, error)
}

func handleCheck(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	f, err := srv.(checker).checkFrame(ctx, decode)
	if err != nil {
		return nil, err // the message never arrived: there is no call to answer
	}
	return f, nil
}

// checkFrame reads a request frame and turns it into the response frame.
func (s *Server) checkFrame(ctx context.Context, decode func(any) error) (*frame, error) {
	f := s.frames.Get().(*frame)
	if err := decode(f); err != nil {
		f.drop()
		s.frames.Put(f)
		return nil, err
	}
	in := input{size: f.size}
	if f.in != nil {
		in.raw = f.in.ReadOnlyData()
	}
	out := s.codec.buffers.Get(0)
	*out = s.check(ctx, in, *out)
	f.drop()
	f.out = out
	return f, nil
}
