package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/caserver"
)

const maxAdminBody = 1 << 20

// backupRequest asks for a copy of the ledger, written by the authority itself.
type backupRequest struct {
	Path string `json:"path"` // absolute; must not exist
}

type backupResponse struct {
	Path string `json:"path"`
}

// intermediateRequest asks for a new intermediate under a root whose key is kept elsewhere.
type intermediateRequest struct {
	RootKey string `json:"root_key"` // absolute path of the file that init or rotate prepare wrote
}

// adminError is the body of an answer that is none.
type adminError struct {
	Error string `json:"error"`
}

var errNoOperator = errors.New("it is not known who asks")

// routes serve what operators do, to whoever the admin socket let in. report is what GET /ca answers.
func (s *caState) routes(mux *http.ServeMux, report func(context.Context) caReport) {
	type nothing = struct{}
	handle(mux, "GET /ca", func(ctx context.Context, _ string, _ nothing) (caReport, error) { return report(ctx), nil })
	handle(mux, "GET /ca/bundle", func(context.Context, string, nothing) (caserver.BundleResponse, error) { return s.admin.Bundle() })
	handle(mux, "POST /ca/list", func(ctx context.Context, _ string, r caserver.ListRequest) (caserver.ListResponse, error) {
		return s.admin.List(ctx, r)
	})
	handle(mux, "GET /ca/revocations", func(ctx context.Context, _ string, _ nothing) ([]caserver.Revocation, error) {
		return s.admin.Revocations(ctx)
	})
	handle(mux, "POST /ca/events", func(ctx context.Context, _ string, r caserver.EventsRequest) ([]caserver.Event, error) {
		return s.admin.Events(ctx, r)
	})
	handle(mux, "POST /ca/revoke", func(ctx context.Context, by string, r caserver.RevokeRequest) (nothing, error) {
		return nothing{}, s.admin.Revoke(ctx, by, r)
	})
	handle(mux, "POST /ca/unrevoke", func(ctx context.Context, by string, r caserver.RevokeRequest) (nothing, error) {
		return nothing{}, s.admin.Unrevoke(ctx, by, r)
	})
	handle(mux, "POST /ca/rotate", s.rotate)
	handle(mux, "POST /ca/intermediate", s.renewIntermediate)
	handle(mux, "POST /ca/tokens", s.createToken)
	handle(mux, "POST /ca/verify", s.verify)
	handle(mux, "POST /ca/backup", s.backup)
}

func (s *caState) rotate(ctx context.Context, by string, r caserver.RotateRequest) (caserver.RotateResponse, error) {
	if r.RootOut != "" && !filepath.IsAbs(r.RootOut) {
		return caserver.RotateResponse{}, fmt.Errorf("%w: root_out %q: want an absolute path", caserver.ErrInvalidRequest, r.RootOut)
	}
	return s.admin.Rotate(ctx, by, r)
}

func (s *caState) renewIntermediate(ctx context.Context, by string, r intermediateRequest) (caserver.StatusResponse, error) {
	key, err := s.keys.ReadRootKey(r.RootKey)
	if err != nil {
		return caserver.StatusResponse{}, err
	}
	if err := s.authority.RenewIntermediate(ctx, key, ca.StepOptions{By: by}); err != nil {
		return caserver.StatusResponse{}, err
	}
	return s.admin.Status(ctx), nil
}

// createToken makes a join token, if anybody could use it.
func (s *caState) createToken(ctx context.Context, by string, r caserver.CreateTokenRequest) (caserver.CreateTokenResponse, error) {
	accepted := s.config.CA.attest().JoinToken
	if accepted == nil {
		return caserver.CreateTokenResponse{}, fmt.Errorf("%w: join tokens are not accepted here: add join_token: {} to ca.attest", caserver.ErrInvalidRequest)
	}
	if r.TTL == 0 {
		r.TTL = caserver.Duration(accepted.TTL)
	}
	return s.admin.CreateToken(ctx, by, r)
}

// verify walks the ledger, however damaged the rest of the state may be. A chain that is broken is an answer.
func (s *caState) verify(ctx context.Context, _ string, _ struct{}) (caserver.VerifyResponse, error) {
	records, err := s.store.Verify(ctx)
	switch {
	case err == nil:
		return caserver.VerifyResponse{Records: records}, nil
	case ctx.Err() != nil:
		return caserver.VerifyResponse{}, err
	default:
		return caserver.VerifyResponse{Records: records, Broken: err.Error()}, nil
	}
}

func (s *caState) backup(ctx context.Context, by string, r backupRequest) (backupResponse, error) {
	if !filepath.IsAbs(r.Path) {
		return backupResponse{}, fmt.Errorf("%w: path %q: want an absolute one", caserver.ErrInvalidRequest, r.Path)
	}
	detail, err := json.Marshal(r)
	if err != nil {
		return backupResponse{}, err
	}
	if err := s.store.Record(ctx, ca.Event{At: time.Now(), By: by, What: "backup", Detail: string(detail)}); err != nil {
		return backupResponse{}, err
	}
	return backupResponse(r), s.store.Backup(ctx, r.Path)
}

// handle answers a route with what f makes of the request's JSON.
func handle[Q, A any](mux *http.ServeMux, pattern string, f func(ctx context.Context, by string, q Q) (A, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if r.Method == http.MethodPost {
			d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdminBody))
			d.DisallowUnknownFields()
			if err := d.Decode(&q); err != nil {
				writeJSON(w, http.StatusBadRequest, adminError{"the request cannot be read: " + err.Error()})
				return
			}
		}
		by := operator(r.Context())
		if by == "" {
			writeJSON(w, http.StatusForbidden, adminError{errNoOperator.Error()})
			return
		}
		// A backup, or walking a long ledger, takes the time it takes. Without support for deadlines there are none.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		answer, err := f(r.Context(), by, q)
		if err != nil {
			writeJSON(w, adminStatus(err), adminError{err.Error()})
			return
		}
		writeJSON(w, http.StatusOK, answer)
	})
}

// adminStatus is the HTTP status of an error.
func adminStatus(err error) int {
	switch {
	case errors.Is(err, caserver.ErrInvalidRequest):
		return http.StatusBadRequest
	case errors.Is(err, ca.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, ca.ErrPhase), errors.Is(err, ca.ErrConflict), errors.Is(err, ca.ErrInitialised), errors.Is(err, ca.ErrDependents):
		return http.StatusConflict
	case errors.Is(err, ca.ErrNotReady), errors.Is(err, ca.ErrUnavailable):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
