//go:build linux

package attest_test

import (
	"net"
	"os"
	"testing"

	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/internal/testkit/otherend"
	"github.com/writ-auth/writ/internal/unixpeer"
)

func TestMain(m *testing.M) { os.Exit(otherend.Main(m)) }

func TestPeerRules(t *testing.T) {
	conn, _, _ := otherend.Start(t)
	peer, err := unixpeer.Of(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	uid, gid, nobody := uint32(os.Getuid()), uint32(os.Getgid()), uint32(65533)
	if peer.UID != uid || peer.GID != gid || peer.PID == os.Getpid() {
		t.Errorf("peer %+v", peer)
	}
	for _, test := range []struct {
		name  string
		rules []attest.PeerRule
		want  string // empty: refused
	}{
		{"by uid", []attest.PeerRule{{ID: id(t, order), UID: &uid}}, order},
		{"by program", []attest.PeerRule{{ID: id(t, order), Path: program}}, order},
		{"by all", []attest.PeerRule{{ID: id(t, order), UID: &uid, GID: &gid, Path: program}}, order},
		{"another uid", []attest.PeerRule{{ID: id(t, order), UID: &nobody}}, ""},
		{"the uid, another gid", []attest.PeerRule{{ID: id(t, order), UID: &uid, GID: &nobody}}, ""},
		{"the uid, another program", []attest.PeerRule{{ID: id(t, order), UID: &uid, Path: "/bin/true"}}, ""},
		{"the first that matches", []attest.PeerRule{
			{ID: id(t, "spiffe://td.test/x"), UID: &nobody}, {ID: id(t, payment), UID: &uid}, {ID: id(t, order), UID: &uid},
		}, payment},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, err := attest.New(attest.Config{TrustDomain: domain(t), Peers: test.rules})
			if err != nil {
				t.Fatal(err)
			}
			caller, err := a.Attest(t.Context(), attest.Evidence{Peer: peer})
			if test.want == "" {
				wantRefusal(t, err, attest.PeerUnknown)
				return
			}
			if err != nil || caller.ID != id(t, test.want) || caller.Method != attest.MethodPeer {
				t.Errorf("caller %+v, %v", caller, err)
			}
		})
	}
}

// TestPeerThatEnded is surprise 30 of identity §11: the number of a process is not the process.
func TestPeerThatEnded(t *testing.T) {
	conn, _, end := otherend.Start(t)
	peer, err := unixpeer.Of(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if err := peer.Check(); err != nil {
		t.Errorf("while it runs: %v", err)
	}
	end()
	if err := peer.Check(); err == nil {
		t.Error("the process ended, and it checks")
	}
	uid := uint32(os.Getuid())
	a, err := attest.New(attest.Config{TrustDomain: domain(t), Peers: []attest.PeerRule{{ID: id(t, order), UID: &uid}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Attest(t.Context(), attest.Evidence{Peer: peer})
	wantRefusal(t, err, attest.PeerUnknown)
	if _, err := unixpeer.Of(conn); err == nil {
		t.Error("a process that ended has credentials")
	}
}

func TestPeerOfTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := unixpeer.Of(conn); err == nil {
		t.Error("a TCP connection has credentials")
	}
}
