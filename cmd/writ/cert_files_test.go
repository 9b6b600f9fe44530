package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fits is nil if key, certificate and roots in a directory belong together.
func fits(dir string) error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, keyFile))
	if err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(dir, bundleFile))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data) {
		return errors.New("no roots")
	}
	var chain []*x509.Certificate
	for _, der := range pair.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		chain = append(chain, cert)
	}
	return verifyChain(chain, roots, time.Now())
}

// TestRenewKilled kills renewals while they write: whoever reads the files, meanwhile or afterwards, gets a key and a
// certificate that fit.
func TestRenewKilled(t *testing.T) {
	t.Parallel()
	p := serveCA(t, caOnly, nil)
	p.join("order", orderID)
	out := filepath.Join(p.dir, "order")

	done, reads := make(chan struct{}), 0
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			dir, err := certificateDir(out).current()
			if err == nil {
				err = fits(dir)
			}
			if err != nil {
				t.Errorf("a reader: %v", err)
				return
			}
			reads++
		}
	})
	stop := sync.OnceFunc(func() { close(done); reader.Wait() })
	defer stop()
	random := rand.New(rand.NewPCG(1, 2))
	killed, inForce := 0, map[string]bool{}
	for round := range 40 {
		if round%8 == 0 {
			p.renew(0, "order")
		} else if p.renewAndKill(out, time.Duration(random.Int64N(int64(6*time.Millisecond)))) {
			killed++
		}
		dir, err := certificateDir(out).current()
		if err := errors.Join(err, fits(out)); err != nil { // by their names, as nobody is writing
			t.Fatalf("after a kill: %v", err)
		}
		inForce[dir] = true
	}
	stop()
	if killed == 0 || reads == 0 {
		t.Errorf("%d renewals were killed while they wrote, %d reads: the test says nothing", killed, reads)
	}
	t.Logf("%d of 35 renewals were killed while they wrote, %d were in force, %d reads", killed, len(inForce), reads)
	p.stop()
}

// renewAndKill starts a renewal and kills it a while after it began to write. It reports whether it was killed before its
// end.
func (p *authorityProcess) renewAndKill(out string, after time.Duration) bool {
	p.t.Helper()
	before := generations(p.t, out)
	renewal := writ(p.t, "cert", "request", "--authority", p.address("ca"), "--renew", "--out", out)
	if err := renewal.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- renewal.Wait() }()
	for generations(p.t, out) <= before {
		select {
		case err := <-ended:
			if err != nil || generations(p.t, out) <= before {
				p.t.Fatalf("it ended and wrote nothing: %v", err)
			}
			return false
		case <-time.After(100 * time.Microsecond):
		}
	}
	time.AfterFunc(after, func() { _ = renewal.Process.Kill() })
	return <-ended != nil
}

// generations counts those in a directory; none is removed within a minute.
func generations(t *testing.T, dir string) int {
	t.Helper()
	entries, err := filepath.Glob(filepath.Join(dir, generationPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestCertificateDir: what is in force changes in one step, whatever was there before.
func TestCertificateDir(t *testing.T) {
	t.Parallel()
	made := func(n int) *madeCertificate {
		text := func(what string) []byte { return fmt.Appendf(nil, "%s %d", what, n) }
		return &madeCertificate{key: text("key"), chain: text("chain"), bundle: text("bundle")}
	}
	shows := func(t *testing.T, dir string, n int) {
		t.Helper()
		for file, want := range map[string]string{keyFile: "key", certFile: "chain", bundleFile: "bundle"} {
			got, err := os.ReadFile(filepath.Join(dir, file))
			if want = fmt.Sprintf("%s %d", want, n); err != nil || string(got) != want {
				t.Errorf("%s: %q, %v, want %q", file, got, err, want)
			}
			if info, err := os.Stat(filepath.Join(dir, file)); file == keyFile && (err != nil || info.Mode() != 0o600) {
				t.Errorf("%s: mode %v, %v", file, info.Mode(), err)
			}
		}
	}
	for name, before := range map[string]func(t *testing.T, dir string){
		"nothing": func(*testing.T, string) {},
		"plain files": func(t *testing.T, dir string) {
			write(t, dir, map[string]string{keyFile: "key 0", certFile: "chain 0", bundleFile: "bundle 0"})
			if err := certificateDir(dir).adopt(); err != nil {
				t.Error(err)
			}
			shows(t, dir, 0)
		},
		"a plain file beside links": func(t *testing.T, dir string) {
			if err := certificateDir(dir).write(made(0)); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(dir, certFile)); err != nil {
				t.Fatal(err)
			}
			write(t, dir, map[string]string{certFile: "chain 0"})
		},
		"links that lead nowhere": func(t *testing.T, dir string) {
			for _, name := range certificateFiles() {
				if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			if certificateDir(dir).exists() {
				t.Error("there is a key")
			}
		},
		"what crashes have left": func(t *testing.T, dir string) {
			if err := os.Symlink("nowhere", filepath.Join(dir, dataLink+"_tmp")); err != nil {
				t.Fatal(err)
			}
			old := filepath.Join(dir, generationPrefix+"-old")
			write(t, old, map[string]string{keyFile: "key 7"})
			if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*staleGeneration)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			before(t, dir)
			d := certificateDir(dir)
			for n := range 3 {
				if err := d.write(made(n)); err != nil {
					t.Fatal(err)
				}
				shows(t, dir, n)
				current, err := d.current()
				if err != nil {
					t.Fatal(err)
				}
				shows(t, current, n)
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if strings.HasSuffix(e.Name(), "_tmp") || strings.HasSuffix(e.Name(), "-old") {
					t.Errorf("%s was left", e.Name())
				}
			}
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := certificateDir(file).write(made(0)); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file for a directory: %v", err)
	}
}
