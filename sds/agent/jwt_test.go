package agent_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/sds/workloadapi"
)

// jwtService is how authorities offer JWT-SVIDs.
var jwtService = grpc.ServiceDesc{
	ServiceName: "writ.v1.JWTService", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "FetchJWTSVID", Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		r := new(workload.JWTSVIDRequest)
		if err := decode(r); err != nil {
			return nil, err
		}
		return srv.(*authority).mint(ctx, r)
	}}},
}

func (a *authority) mint(ctx context.Context, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	caller, err := callerOf(ctx)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, "who?")
	}
	a.world.mu.Lock()
	token := a.world.token
	a.world.mu.Unlock()
	if token == nil {
		return nil, status.Error(codes.Unavailable, "no keys")
	}
	id := r.GetSpiffeId()
	if id == "" {
		id = caller.ID.String()
	}
	text := token(id, r.GetAudience())
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: id, Svid: text}}}, nil
}

func jwtOf(id string, audiences []string, expires time.Time) string {
	claims := fmt.Sprintf(`{"sub":%q,"aud":["%s"],"exp":%d}`, id, strings.Join(audiences, `","`), expires.Unix())
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

// TestMintJWT: tokens come from the authority, for the identity that was asked for, and with their end.
func TestMintJWT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a.test:8081", nil)
		a := w.start(nil)
		if _, err := a.MintJWT(t.Context(), mustID(t, order), []string{"x"}); status.Code(err) != codes.Unavailable {
			t.Errorf("before the first certificate: %v", err)
		}
		a.ready(t)
		if _, err := a.MintJWT(t.Context(), mustID(t, order), []string{"x"}); status.Code(err) != codes.Unavailable {
			t.Errorf("an authority without keys: %v", err)
		}
		end := time.Now().Add(5 * time.Minute).Truncate(time.Second)
		w.do(func() { w.token = func(id string, audiences []string) string { return jwtOf(id, audiences, end) } })
		for _, id := range []string{order, nodeID} {
			got, err := a.MintJWT(t.Context(), mustID(t, id), []string{"x"})
			if err != nil || got.Text != jwtOf(id, []string{"x"}, end) || !got.Expires.Equal(end) {
				t.Errorf("%s: %+v, %v", id, got, err)
			}
		}
		for name, text := range map[string]string{
			"another's": jwtOf(payment, []string{"x"}, end), "ended": jwtOf(order, []string{"x"}, time.Now()), "no end": "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"`+order+`"}`)) + ".c2ln",
			"no token": "hello", "not JSON": "e30.aGVsbG8.c2ln", "not base64": "e30.!.c2ln", "too long": strings.Repeat("a", 17<<10), "nothing": "",
		} {
			w.do(func() { w.token = func(string, []string) string { return text } })
			if got, err := a.MintJWT(t.Context(), mustID(t, order), []string{"x"}); err == nil || got != (workloadapi.Token{}) {
				t.Errorf("%s: %+v", name, got)
			}
		}
	})
}
