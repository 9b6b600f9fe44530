package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds/workloadapi"
)

// methodMintJWT is how authorities are asked for JWT-SVIDs: the Workload API's messages, for the identities that the
// agent's certificate stands for.
const methodMintJWT = "/writ.v1.JWTService/FetchJWTSVID"

const maxTokenBytes = 16 << 10

// MintJWT has an authority make a JWT-SVID for one of the agent's identities. It implements [workloadapi.Minter]; the
// error is a gRPC status where an authority answered.
func (a *Agent) MintJWT(ctx context.Context, id spiffeid.ID, audiences []string) (workloadapi.Token, error) {
	own := a.ownCertificate()
	if own == nil {
		return workloadapi.Token{}, status.Error(codes.Unavailable, errNoOwn.Error())
	}
	question := &workload.JWTSVIDRequest{Audience: audiences}
	if id != own.identity.ID {
		question.SpiffeId = id.String()
	}
	answer := &workload.JWTSVIDResponse{}
	address, err := a.links.each(ctx, own, func(ctx context.Context, conn *grpc.ClientConn) error {
		answer.Reset()
		return conn.Invoke(ctx, methodMintJWT, question, answer)
	})
	if err != nil {
		return workloadapi.Token{}, err
	}
	token, err := checkToken(answer, id, time.Now())
	if err != nil {
		return workloadapi.Token{}, fmt.Errorf("%s: %w: %w", address, errAnswer, err)
	}
	return token, nil
}

// checkToken holds a token to what was asked for. Its signature is for those who receive it to verify: it came over a
// connection that proved the authority.
func checkToken(r *workload.JWTSVIDResponse, id spiffeid.ID, now time.Time) (workloadapi.Token, error) {
	if len(r.GetSvids()) != 1 || len(r.GetSvids()[0].GetSvid()) > maxTokenBytes {
		return workloadapi.Token{}, errors.New("want one token")
	}
	text := r.GetSvids()[0].GetSvid()
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return workloadapi.Token{}, errors.New("want a JWS in compact form")
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return workloadapi.Token{}, errors.New("the token's claims cannot be read")
	}
	var claims struct {
		Subject string `json:"sub"`
		Expires int64  `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return workloadapi.Token{}, errors.New("the token's claims cannot be read")
	}
	expires := time.Unix(claims.Expires, 0)
	switch {
	case claims.Subject != id.String():
		return workloadapi.Token{}, fmt.Errorf("the token is for %.200q, not for %s", claims.Subject, id)
	case !now.Before(expires):
		return workloadapi.Token{}, fmt.Errorf("the token ended at %s: set this machine's clock, or the authority's", stamp(expires))
	}
	return workloadapi.Token{Text: text, Expires: expires}, nil
}
