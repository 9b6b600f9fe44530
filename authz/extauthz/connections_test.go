package extauthz_test

import (
	"context"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
)

// One connection more than there may be waits until another is closed.
func TestConnectionsAreBounded(t *testing.T) {
	server := newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load, MaxConnections: 1})
	first := start(t, server, nil)
	wantAllowed(t, first)
	conn, err := grpc.NewClient(first.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	second := &running{ClientConn: conn, checks: authv3.NewAuthorizationClient(conn)}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := second.checks.Check(short, request(t, goodCheck)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a second connection: %v", err)
	}
	_ = first.Close()
	wantAllowed(t, second)
	if _, err := extauthz.New(extauthz.Config{Snapshot: storeOf(t, shop).Load, Engine: &authz.Engine{}, MaxConnections: -1}); err == nil {
		t.Error("-1 connections are accepted")
	}
}
