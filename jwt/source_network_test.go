package jwt_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writ-auth/writ/jwt"
)

func TestSourcePrivateCA(t *testing.T) {
	idp, ca := newTLSIDP(t, says(newJWKS("a")))
	_, otherCA := newTLSIDP(t, says(""))
	host := strings.TrimPrefix(idp.URL, "https://")
	w := jwt.Wanted{JWKSURI: idp.URL + "/keys", Issuer: "https://issuer.example"}
	for _, tt := range []struct {
		name    string
		bundles map[string]string
		ok      bool
	}{
		{"none", nil, false},
		{"of the issuer", map[string]string{w.Issuer: ca}, true},
		{"of the host and port", map[string]string{host: ca}, true},
		{"of the host", map[string]string{"127.0.0.1": ca}, true},
		{"the issuer's goes before the host's", map[string]string{w.Issuer: otherCA, host: ca}, false},
		{"of another issuer", map[string]string{w.Issuer + "/": ca}, false},
		{"another CA", map[string]string{w.Issuer: otherCA}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := nearby()
			cfg.AllowHTTP = false
			cfg.CABundles = tt.bundles
			cfg.UserAgent = "writ/1.2.3"
			s, src := started(t, cfg, w)
			if ok := src.Keys() != nil; ok != tt.ok {
				t.Fatalf("keys %s, status %+v", kids(src.Keys()), only(t, s))
			}
			if st := only(t, s); !tt.ok && st.LastError != jwt.FetchTLS {
				t.Errorf("status %+v, want tls", st)
			}
			if tt.ok && idp.lastRequest().UserAgent() != "writ/1.2.3" {
				t.Errorf("user agent %q", idp.lastRequest().UserAgent())
			}
		})
	}
}

func TestSourceTLS(t *testing.T) {
	idp, ca := newTLSIDP(t, says(newJWKS("a")))
	plain := newIDP(t, says(newJWKS("a")))
	expired, expiredCA := newTLSIDP(t, says(newJWKS("a")))
	for _, tt := range []struct {
		name, url, ca, want string
		max                 uint16 // TLS version of the server
	}{
		{"TLS 1.3", idp.URL, ca, "", tls.VersionTLS13},
		{"TLS 1.2", idp.URL, ca, "", tls.VersionTLS12},
		{"TLS 1.1", idp.URL, ca, "the handshake failed, or was cut short", tls.VersionTLS11},
		{"another host", strings.Replace(idp.URL, "127.0.0.1", "localhost", 1), ca, "the certificate is for another host", tls.VersionTLS13},
		{"no TLS at all", strings.Replace(plain.URL, "http:", "https:", 1), ca, "the server does not speak TLS", tls.VersionTLS13},
	} {
		t.Run(tt.name, func(t *testing.T) {
			idp.TLS.MinVersion, idp.TLS.MaxVersion = tls.VersionTLS10, tt.max
			cfg := nearby()
			cfg.CABundles = map[string]string{"https://issuer": tt.ca}
			s, src := started(t, cfg, jwt.Wanted{JWKSURI: tt.url, Issuer: "https://issuer"})
			if st := only(t, s); (src.Keys() != nil) != (tt.want == "") || st.Detail != tt.want || (tt.want != "" && st.LastError != jwt.FetchTLS) {
				t.Errorf("keys %s, status %+v, want %q", kids(src.Keys()), st, tt.want)
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pass(100 * 365 * 24 * time.Hour) // the clock of certificates, too
			cfg := nearby()
			cfg.CABundles = map[string]string{"127.0.0.1": expiredCA}
			s, src := started(t, cfg, jwt.Wanted{JWKSURI: expired.URL})
			if st := only(t, s); src.Keys() != nil || st.LastError != jwt.FetchTLS || !strings.Contains(st.Detail, "expired") {
				t.Errorf("keys %s, status %+v, want expired", kids(src.Keys()), st)
			}
		})
	})
}

// A service that speaks first gives its banner to nobody: not to the status, not to our log, not to the log package's,
// to which net/http's own transport writes it.
func TestSourceBannerFirst(t *testing.T) {
	std := &logBook{}
	log.SetOutput(std)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	cert, ca := newCertificate(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	for scheme, listen := range map[string]func() (net.Listener, error){
		"http": func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") },
		"https": func() (net.Listener, error) {
			return tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
		},
	} {
		t.Run(scheme, func(t *testing.T) {
			listener, err := listen()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { listener.Close() })
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					go func() {
						fmt.Fprintf(conn, "220 %s ESMTP\r\n", marker)
						conn.Read(make([]byte, 4096))
						conn.Close()
					}()
				}
			}()
			logs := &logBook{}
			cfg := nearby()
			cfg.Logger = logs.logger()
			cfg.CABundles = map[string]string{"127.0.0.1": file}
			s, _ := started(t, cfg, jwt.Wanted{JWKSURI: scheme + "://" + listener.Addr().String()})
			if st := only(t, s); st.LastError != jwt.FetchProtocol || strings.Contains(fmt.Sprint(st, logs, std), marker) {
				t.Errorf("status %+v\nlog %s\nlog package %s", st, logs, std)
			}
		})
	}
}

// The same URL under another trust is another key set.
func TestSourceTrustIsPartOfTheSource(t *testing.T) {
	idp, ca := newTLSIDP(t, says(newJWKS("a")))
	cfg := nearby()
	cfg.CABundles = map[string]string{"https://trusts": ca}
	s := newSources(t, cfg)
	trusts, not := jwt.Wanted{JWKSURI: idp.URL, Issuer: "https://trusts"}, jwt.Wanted{JWKSURI: idp.URL, Issuer: "https://other"}
	s.Set([]jwt.Wanted{trusts, not})
	running(t, s)
	settled(t, s)
	if s.Source(trusts).Keys() == nil || s.Source(not).Keys() != nil {
		t.Errorf("status %+v", s.Status())
	}
}

func TestSourceDiscovery(t *testing.T) {
	keys := says(newJWKS("a"))
	const wellKnown = "/realm/.well-known/openid-configuration"
	document := func(issuer, jwksURI string) http.HandlerFunc {
		return says(fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, issuer, jwksURI))
	}
	idp, ca := newTLSIDP(t, nil)
	plain := newIDP(t, keys)
	realm := idp.URL + "/realm"
	for _, tt := range []struct {
		name, issuer string
		paths        map[string]http.HandlerFunc
		want         jwt.FetchResult
	}{
		{"good", realm, map[string]http.HandlerFunc{wellKnown: document(realm, idp.URL+"/keys"), "/keys": keys}, jwt.FetchOK},
		{"issuer with a slash", realm + "/", map[string]http.HandlerFunc{wellKnown: document(realm+"/", idp.URL+"/keys"), "/keys": keys}, jwt.FetchOK},
		{"only one slash goes", realm + "//", map[string]http.HandlerFunc{wellKnown: document(realm+"//", idp.URL+"/keys"), "/keys": keys}, jwt.FetchStatus},
		{"document of another issuer", realm, map[string]http.HandlerFunc{wellKnown: document(realm+"/", idp.URL+"/keys"), "/keys": keys}, jwt.FetchBadDiscovery},
		{"document moved", realm, map[string]http.HandlerFunc{
			wellKnown: redirect("/moved"), "/moved": document(realm, idp.URL+"/keys"), "/keys": keys,
		}, jwt.FetchOK},
		{"keys over http", realm, map[string]http.HandlerFunc{wellKnown: document(realm, plain.URL)}, jwt.FetchBadDiscovery},
		{"keys moved to http", realm, map[string]http.HandlerFunc{wellKnown: document(realm, idp.URL+"/keys"), "/keys": redirect(plain.URL)}, jwt.FetchRefusedRedirect},
		{"keys at the metadata address", realm, map[string]http.HandlerFunc{wellKnown: document(realm, "https://169.254.169.254/keys")}, jwt.FetchRefusedAddress},
		{"keys with credentials", realm, map[string]http.HandlerFunc{wellKnown: document(realm, "https://u:p@127.0.0.1/keys")}, jwt.FetchRefusedURL},
		{"document of 1 MB", realm, map[string]http.HandlerFunc{wellKnown: large(1 << 20)}, jwt.FetchTooLarge},
		{"document is HTML", realm, map[string]http.HandlerFunc{wellKnown: says("<html>" + marker)}, jwt.FetchBadDiscovery},
		{"no document", realm, map[string]http.HandlerFunc{}, jwt.FetchStatus},
		{"no keys", realm, map[string]http.HandlerFunc{wellKnown: document(realm, idp.URL+"/keys")}, jwt.FetchStatus},
	} {
		t.Run(tt.name, func(t *testing.T) {
			idp.now(byPath(tt.paths))
			hits := plain.hits.Load()
			cfg := nearby()
			cfg.CABundles = map[string]string{tt.issuer: ca}
			s, src := started(t, cfg, jwt.Wanted{Issuer: tt.issuer})
			st := only(t, s)
			if !st.Discovery || (src.Keys() != nil) != (tt.want == jwt.FetchOK) || (st.LastError != tt.want && tt.want != jwt.FetchOK) {
				t.Errorf("keys %s, status %+v, want %s", kids(src.Keys()), st, tt.want)
			}
			if strings.Contains(fmt.Sprint(st), marker) {
				t.Errorf("status quotes the document: %+v", st)
			}
			if plain.hits.Load() != hits {
				t.Error("an https issuer's keys were asked for over http")
			}
		})
	}
}

func TestSourceRedirects(t *testing.T) {
	for n, ok := range map[int]bool{0: true, 3: true, 4: false} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			paths := map[string]http.HandlerFunc{fmt.Sprintf("/%d", n): says(newJWKS("a"))}
			for i := range n {
				paths[fmt.Sprintf("/%d", i)] = redirect(fmt.Sprintf("/%d", i+1))
			}
			idp := newIDP(t, byPath(paths))
			s, src := started(t, nearby(), jwt.Wanted{JWKSURI: idp.URL + "/0?secret=1"})
			if got := src.Keys() != nil; got != ok {
				t.Errorf("keys after %d redirects: %v, status %+v", n, got, only(t, s))
			}
			for name := range idp.lastRequest().Header {
				if name != "User-Agent" && name != "Accept" && name != "Connection" {
					t.Errorf("header %s: %q", name, idp.lastRequest().Header[name])
				}
			}
		})
	}
}

// nameServer answers each A query for a name with the next address of its list, and the last for ever.
type nameServer struct {
	conn net.PacketConn

	mu      sync.Mutex
	answers []netip.Addr
	asked   int
}

func newNameServer(t *testing.T, answers ...string) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	n := &nameServer{conn: conn}
	for _, a := range answers {
		n.answers = append(n.answers, netip.MustParseAddr(a))
	}
	go n.serve()
	return n
}

func (n *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", n.conn.LocalAddr().String())
	}}
}

func (n *nameServer) serve() {
	buf := make([]byte, 512)
	for {
		size, from, err := n.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if answer := n.answer(buf[:size]); answer != nil {
			n.conn.WriteTo(answer, from)
		}
	}
}

// answer makes the response to a query with one question (RFC 1035 §4.1); there are no addresses but IPv4 ones.
func (n *nameServer) answer(query []byte) []byte {
	end := 12
	for query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // the root label, type and class
	out := append([]byte(nil), query[:end]...)
	binary.BigEndian.PutUint16(out[2:], 0x8180) // an answer without error
	clear(out[6:12])
	if binary.BigEndian.Uint16(query[end-4:]) != 1 {
		return out
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.answers[min(n.asked, len(n.answers)-1)]
	n.asked++
	out[7] = 1
	out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4) // the name of the question, A, IN, no TTL, 4 bytes
	return append(out, a.AsSlice()...)
}

// A name that is judged once and then answers otherwise gets nowhere: every connection's own address is judged.
func TestSourceDNSRebinding(t *testing.T) {
	const allowed, refused = "127.0.0.1", "127.0.0.2"
	listener, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	visited := map[string]int{}
	port := listener.Addr().(*net.TCPAddr).Port
	issuer := fmt.Sprintf("http://idp.test:%d", port)
	answer := byPath(map[string]http.HandlerFunc{
		"/.well-known/openid-configuration": says(fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, issuer, issuer+"/keys")),
		"/keys":                             says(newJWKS("a")),
		"/elsewhere":                        redirect(issuer + "/keys"),
	})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.Context().Value(http.LocalAddrContextKey).(net.Addr).String())
		mu.Lock()
		visited[host]++
		mu.Unlock()
		answer(w, r)
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })

	for _, tt := range []struct {
		name    string
		w       jwt.Wanted
		answers []string
		want    jwt.FetchResult
	}{
		{"same answer", jwt.Wanted{Issuer: issuer}, []string{allowed}, jwt.FetchOK},
		{"at once", jwt.Wanted{JWKSURI: issuer + "/keys"}, []string{refused}, jwt.FetchRefusedAddress},
		{"between discovery and keys", jwt.Wanted{Issuer: issuer}, []string{allowed, refused}, jwt.FetchRefusedAddress},
		{"between redirect and target", jwt.Wanted{JWKSURI: issuer + "/elsewhere"}, []string{allowed, refused}, jwt.FetchRefusedAddress},
		{"to metadata", jwt.Wanted{Issuer: issuer}, []string{allowed, "169.254.169.254"}, jwt.FetchRefusedAddress},
		{"to this host", jwt.Wanted{Issuer: issuer}, []string{allowed, "0.0.0.0"}, jwt.FetchRefusedAddress},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := jwt.SourcesConfig{AllowHTTP: true, Networks: jwt.Networks{Allow: prefixes(allowed + "/32")}}
			s, src := started(t, jwt.WithResolver(cfg, newNameServer(t, tt.answers...).resolver()), tt.w)
			if st := only(t, s); (src.Keys() != nil) != (tt.want == jwt.FetchOK) || (st.LastError != tt.want && tt.want != jwt.FetchOK) {
				t.Errorf("keys %s, status %+v, want %s", kids(src.Keys()), st, tt.want)
			}
		})
	}
	t.Run("at the next refresh", func(t *testing.T) {
		names := newNameServer(t, allowed, refused)
		synctest.Test(t, func(t *testing.T) {
			cfg := jwt.SourcesConfig{AllowHTTP: true, Networks: jwt.Networks{Allow: prefixes(allowed + "/32")}}
			s, src := started(t, jwt.WithResolver(cfg, names.resolver()), jwt.Wanted{JWKSURI: issuer + "/keys"})
			pass(22 * time.Minute)
			if st := only(t, s); kids(src.Keys()) != "a" || st.LastError != jwt.FetchRefusedAddress {
				t.Errorf("keys %s, status %+v", kids(src.Keys()), st)
			}
		})
	})
	mu.Lock()
	defer mu.Unlock()
	if len(visited) != 1 || visited[allowed] == 0 {
		t.Errorf("visited %v, want only %s", visited, allowed)
	}
}

func TestSourceNoSuchHost(t *testing.T) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, fmt.Errorf("%s", marker)
	}}
	s, _ := started(t, jwt.WithResolver(jwt.SourcesConfig{}, resolver), jwt.Wanted{JWKSURI: "https://idp.test/keys"})
	if st := only(t, s); st.LastError != jwt.FetchDNS || strings.Contains(st.Detail, marker) {
		t.Errorf("status %+v, want dns", st)
	}
}

// No proxy is used unless configured; then the URL itself is still judged.
func TestSourceProxy(t *testing.T) {
	proxy := newIDP(t, says(newJWKS("proxied")))
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("http_proxy", proxy.URL)
	names := newNameServer(t, "127.0.0.2")
	cfg := jwt.SourcesConfig{AllowHTTP: true}
	w := jwt.Wanted{JWKSURI: "http://idp.test/keys"}

	if _, src := started(t, jwt.WithResolver(cfg, names.resolver()), w); src.Keys() != nil || proxy.hits.Load() != 0 {
		t.Errorf("keys %s, %d requests to the proxy of the environment", kids(src.Keys()), proxy.hits.Load())
	}
	cfg.Proxy = withUser(t, proxy.URL)
	if s, src := started(t, cfg, w); kids(src.Keys()) != "proxied" || proxy.lastRequest().RequestURI != w.JWKSURI {
		t.Errorf("keys %s through the proxy, status %+v", kids(src.Keys()), s.Status())
	}
	if user, password, _ := (&http.Request{Header: http.Header{
		"Authorization": proxy.lastRequest().Header["Proxy-Authorization"],
	}}).BasicAuth(); user != "u" || password != "p" {
		t.Errorf("the proxy was given user %q, password %q", user, password)
	}
	proxy.now(redirect("http://169.254.169.254/latest/"))
	hits := proxy.hits.Load()
	if s, _ := started(t, cfg, w); only(t, s).LastError != jwt.FetchRefusedAddress || proxy.hits.Load() != hits+1 {
		t.Errorf("a redirect to the metadata address went through the proxy: %+v", s.Status())
	}
}

// Through a proxy, https is a tunnel: the proxy sees a host and its own credentials, the issuer sees neither.
func TestSourceProxyTunnel(t *testing.T) {
	idp, ca := newTLSIDP(t, says(newJWKS("tunnelled")))
	connect := func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "127.0.0.1:7" || r.Header.Get("Proxy-Authorization") == "" {
			t.Errorf("%s %s %v", r.Method, r.Host, r.Header)
		}
		conn, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		up, err := net.Dial("tcp", idp.Listener.Addr().String())
		if err != nil {
			panic(err)
		}
		defer up.Close()
		io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
		go io.Copy(up, in)
		io.Copy(conn, up)
	}
	for _, tt := range []struct {
		name  string
		proxy http.HandlerFunc
		want  jwt.FetchResult
	}{
		{"good", connect, jwt.FetchOK},
		{"refuses", status(403, marker), jwt.FetchConnect},
		{"speaks before the host", hijacked("HTTP/1.1 200 OK\r\n\r\n" + marker), jwt.FetchConnect},
		{"speaks no HTTP", hijacked(marker), jwt.FetchProtocol},
	} {
		for _, scheme := range []string{"http", "https"} {
			t.Run(tt.name+" over "+scheme, func(t *testing.T) {
				proxy, proxyCA := newIDP(t, tt.proxy), ""
				if scheme == "https" {
					proxy, proxyCA = newTLSIDP(t, tt.proxy)
				}
				cfg := jwt.SourcesConfig{
					Networks: jwt.Networks{Allow: prefixes("127.0.0.1/32")}, Proxy: withUser(t, proxy.URL),
					CABundles: map[string]string{"127.0.0.1": joinFiles(t, ca, proxyCA)},
				}
				s, src := started(t, cfg, jwt.Wanted{JWKSURI: "https://127.0.0.1:7/keys"})
				st := only(t, s)
				if (src.Keys() != nil) != (tt.want == jwt.FetchOK) || (tt.want != jwt.FetchOK && st.LastError != tt.want) {
					t.Errorf("keys %s, status %+v, want %s", kids(src.Keys()), st, tt.want)
				}
				if strings.Contains(fmt.Sprint(st), marker) {
					t.Errorf("status quotes the proxy: %+v", st)
				}
				if r := idp.lastRequest(); tt.want == jwt.FetchOK && r.Header.Get("Proxy-Authorization") != "" {
					t.Errorf("the issuer got the proxy's credentials: %v", r.Header)
				}
			})
		}
	}
	t.Run("down", func(t *testing.T) {
		proxy := newIDP(t, nil)
		cfg := jwt.SourcesConfig{Proxy: withUser(t, proxy.URL)}
		proxy.Close()
		s, _ := started(t, cfg, jwt.Wanted{JWKSURI: "https://idp.test/keys"})
		if st := only(t, s); st.LastError != jwt.FetchConnect {
			t.Errorf("status %+v, want connect", st)
		}
	})
}

func withUser(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("u", "p")
	return u
}

func joinFiles(t *testing.T, names ...string) string {
	t.Helper()
	var all []byte
	for _, name := range names {
		if name == "" {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	out := filepath.Join(t.TempDir(), "all.pem")
	if err := os.WriteFile(out, all, 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}
