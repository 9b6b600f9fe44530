package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"

	"github.com/writ-auth/writ/internal/testkit"
)

// rejecter is a proxy that does not like what it gets: it rejects every version of a secret after the first so many.
type rejecter struct {
	mu       sync.Mutex
	versions []string // in the order in which they came
}

// reject subscribes to a secret of an agent. It takes as many versions as it is told to, and rejects the rest.
func reject(t *testing.T, agent unit, node, secret string, takes int) (r *rejecter, leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := secretv3.NewSecretDiscoveryServiceClient(agent.dial()).StreamSecrets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	request := secretRequest(secret)
	request.Node.Id = node
	if err := stream.Send(request); err != nil {
		t.Fatal(err)
	}
	r = &rejecter{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		last := "" // accepted
		for {
			response, err := stream.Recv()
			if err != nil {
				return
			}
			answer := &discoveryv3.DiscoveryRequest{ResourceNames: []string{secret}, TypeUrl: secretType, ResponseNonce: response.GetNonce()}
			if r.add(response.GetVersionInfo()) <= takes {
				last = response.GetVersionInfo()
			} else {
				answer.ErrorDetail = &spb.Status{Code: int32(codes.InvalidArgument), Message: "KEY_VALUES_MISMATCH"}
			}
			answer.VersionInfo = last
			if stream.Send(answer) != nil {
				return
			}
		}
	}()
	leave = func() { cancel(); <-done }
	t.Cleanup(leave)
	return r, leave
}

func (r *rejecter) add(version string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.versions = append(r.versions, version)
	return len(r.versions)
}

// all is every version that came.
func (r *rejecter) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.versions...)
}

// checkNoLoop demands that nothing came again after it was rejected.
func (r *rejecter) checkNoLoop(t *testing.T) {
	t.Helper()
	all := r.all()
	if once := slices.Compact(slices.Sorted(slices.Values(all))); len(once) != len(all) {
		t.Errorf("a version came again although it was rejected: %v", all)
	}
}

// TestRejectedCertificate: what a proxy rejects shows in writ status, and comes again only when it is another one.
func TestRejectedCertificate(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	main, address := m.authority(10*time.Second, "") // renewals every five seconds, for which this test waits
	agent := m.agent("agent", main, []string{address}, []string{orderID}, ours(orderID))
	agent.ready()
	r, _ := reject(t, agent, "fussy", "default", 1)
	const versions = 4
	eventually(t, "rejections", func() error {
		if got := r.all(); len(got) < versions {
			return fmt.Errorf("%d versions so far", len(got))
		}
		return nil
	})
	r.checkNoLoop(t)
	eventually(t, "the rejection in the status", func() error {
		s, err := agent.status()
		if err != nil {
			return err
		}
		got, err := s.secret("fussy", "default")
		if err == nil && (got.Rejected != got.Sent || got.Acked != r.all()[0] || got.Rejections != len(r.all())-1 || got.Error != "KEY_VALUES_MISMATCH") {
			err = fmt.Errorf("%+v after %v", got, r.all())
		}
		return err
	})
	if text := agent.do("status"); !strings.Contains(text, "rejected ") || !strings.Contains(text, "KEY_VALUES_MISMATCH") {
		t.Errorf("writ status does not show the rejection:\n%s", text)
	}
}

// TestRejectedRoots: a rotation of the root does not go on while a proxy has rejected the bundle with the new one. The
// refusal names the agent, the agent the proxy; and it goes on once that is gone.
func TestRejectedRoots(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	main, address := m.authority(10*time.Second, "")
	agent := m.agent("agent", main, []string{address}, []string{orderID}, ours(orderID))
	agent.ready()
	r, leave := reject(t, agent, "fussy", "ROOTCA", 1)
	eventually(t, "the first bundle", func() error {
		if len(r.all()) == 0 {
			return errors.New("none")
		}
		return nil
	})
	main.rotate("prepare")
	main.rotate("distribute")
	eventuallyWithin(t, 2*patience, "nothing but the proxy in the way", func() error {
		code, out, err := main.try("ca", "rotate", "activate")
		switch {
		case err != nil || code != 2:
			t.Fatalf("activate: exit code %d, %v\n%s", code, err, out)
		case !strings.Contains(out, "consumer") || !strings.Contains(out, orderID):
			return fmt.Errorf("it does not name the agent:\n%s", out)
		case strings.Contains(out, "certificate "): // who has not renewed since; that passes by itself
			return errors.New(out)
		}
		return nil
	})
	s, err := agent.status()
	if err != nil || s.Agent.Bundle == nil || !strings.Contains(s.Agent.Bundle.Behind, "fussy") {
		t.Errorf("the agent does not say who is behind: %+v, %v", s.Agent.Bundle, err)
	}
	r.checkNoLoop(t)
	leave()
	for _, step := range []string{"activate", "taint", "revoke"} {
		main.rotate(step)
	}
}

// TestRejectedByEnvoy has a real Envoy be given roots where its configuration wants a certificate.
func TestRejectedByEnvoy(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	main, address := m.authority(mtlsTTL, "")
	agent := m.agent("agent", main, []string{address}, []string{paymentID}, ours(paymentID))
	agent.ready()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	text := m.bootstrap("server", proxy{SDS: "agent.sock", HTTP: service(t), TCP: database(t), Authz: []string{m.file("main-authz.sock")}, Secret: "ROOTCA"})
	started := make(chan error, 1)
	go func() {
		_, err := m.tryProxy(ctx, "odd", m.tools.envoy, text)
		started <- err
	}()
	eventually(t, "Envoy rejects", func() error {
		s, err := agent.status()
		if err != nil {
			return err
		}
		for _, stream := range s.Agent.Streams {
			for _, secret := range stream.Secrets {
				if secret.Rejections == 1 && secret.Rejected != "" && secret.Error != "" {
					t.Logf("%s rejects %s: %s", stream.Node, secret.Name, secret.Error)
					return nil
				}
			}
		}
		return fmt.Errorf("%+v", s.Agent.Streams)
	})
	cancel()
	<-started
}

// TestSecretNotThereYet: an Envoy that starts while its certificate cannot be had keeps its listeners closed; writ status
// says what it waits for and why, and it comes up by itself once the reason is gone.
func TestSecretNotThereYet(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	main, address := m.authority(mtlsTTL, "")
	const node = "spiffe://cluster.local/node/server"
	agent := m.agent("server", main, []string{address}, []string{node}, ours(paymentID)) // the token is not good for payment
	agent.start()
	text := m.bootstrap("server", proxy{SDS: "server.sock", HTTP: service(t), TCP: database(t), Authz: []string{m.file("main-authz.sock")}})
	type started struct {
		envoy *testkit.Envoy
		err   error
	}
	up := make(chan started, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	go func() {
		envoy, err := m.tryProxy(ctx, "server", m.tools.envoy, text)
		up <- started{envoy, err}
	}()
	var why string
	eventually(t, "Envoy waits", func() error {
		s, err := agent.status()
		if err != nil {
			return err
		}
		got, err := s.secret("server", "default")
		if why = got.Waiting; err == nil && !strings.Contains(why, "denied") {
			err = fmt.Errorf("%+v", got)
		}
		return err
	})
	t.Logf("writ status: %s", why)
	if text := agent.do("status"); !strings.Contains(text, "waiting: ") || !strings.Contains(text, paymentID) {
		t.Errorf("writ status does not say what is waited for:\n%s", text)
	}
	select {
	case got := <-up:
		t.Fatalf("Envoy is up without a certificate: %v", got.err)
	default:
	}
	m.joinToken("server", main, node, paymentID)
	got := <-up
	if got.err != nil {
		t.Fatal(got.err)
	}
	caller := m.agent("caller", main, []string{address}, []string{orderID}, ours(orderID))
	caller.ready()
	if status := answer(t, caller.client(t, orderID), "https://"+got.envoy.Listener("http")); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
}
