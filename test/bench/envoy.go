package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

const (
	userRate  = 300 // requests a second, far below what either side can do
	userConns = 16
	userRound = time.Second
)

// endToEnd measures what a user feels: requests at a steady rate through one Envoy that answers them itself, by three
// listeners in turns, which ask writ, the stock server or nobody.
func (r *results) endToEnd(ctx context.Context, dir, binary, envoyPath string, c *corpus, rounds int) error {
	writ, err := startWrit(ctx, dir, binary, c.documents(), cachedTokens)
	if err != nil {
		return err
	}
	defer writ.stop()
	plain, err := startSelf(ctx, roleStock)
	if err != nil {
		return err
	}
	defer plain.stop()
	envoy, err := testkit.StartEnvoy(ctx, testkit.EnvoyConfig{
		Name: "bench", Binary: envoyPath, Dir: dir,
		Bootstrap: bootstrap(map[string]string{"writ": writ.address, "stock": plain.address, "nobody": ""}),
	})
	if err != nil {
		return err
	}
	defer envoy.Stop()
	pages := pagesOf(c.tokens, "GET "+openPath, "GET "+closedPath)
	arms := [...]*users{
		{address: envoy.Listener("writ"), pages: pages, strict: true},
		{address: envoy.Listener("stock"), pages: pages},
		{address: envoy.Listener("nobody"), pages: pages},
	}
	for i := range rounds + 1 {
		var p50, p99 [len(arms)]float64
		for j, u := range arms {
			took, err := u.round(ctx, userRate)
			if err != nil {
				return err
			}
			p50[j], p99[j] = float64(took.quantile(0.5)), float64(took.quantile(0.99))
		}
		if i > 0 { // the first warms up
			r.latency = append(r.latency, p50[0]/p50[1])
			r.added = append(r.added, (p50[0]-p50[2])/(p50[1]-p50[2]))
			r.slowest = append(r.slowest, p99[0]/p99[1])
		}
	}
	return nil
}

// page is a request to ask for one with, and what is right to answer.
type page struct {
	request string
	status  int
}

// pagesOf are requests of the owners of the tokens, drawn by Zipf's law; every tenth is the one to be denied.
func pagesOf(tokens []string, allowed, denied string) []page {
	pages := make([]page, 0, asked)
	for i, caller := range drawn(len(tokens)) {
		p := page{allowed, http.StatusOK}
		if i%oneIn == oneIn-1 {
			p = page{denied, http.StatusForbidden}
		}
		p.request += " HTTP/1.1\r\nhost: shop.example.com\r\nuser-agent: bench\r\nauthorization: Bearer " + tokens[caller] + "\r\n\r\n"
		pages = append(pages, p)
	}
	return pages
}

// users ask for pages.
type users struct {
	address string
	pages   []page
	strict  bool // what is to be denied has to be
	asked   int  // where in the pages the next round starts
}

// round is open-loop: requests become due at a steady rate whatever happened to others, and latency counts from then.
func (u *users) round(ctx context.Context, perSecond int) (took, error) {
	type request struct {
		i  int
		at time.Time
	}
	total := perSecond * int(userRound/time.Second)
	due := make(chan request, total)
	var (
		mu     sync.Mutex
		all    took
		failed error
		wait   sync.WaitGroup
	)
	for range userConns {
		wait.Go(func() {
			err := u.connection(ctx, func(send func(int) error) error {
				for r := range due {
					if err := send(r.i); err != nil {
						return err
					}
					mu.Lock()
					all = append(all, time.Since(r.at))
					mu.Unlock()
				}
				return nil
			})
			mu.Lock()
			failed = errors.Join(failed, err)
			mu.Unlock()
		})
	}
	err := ticks(ctx, float64(perSecond), total, func(i int, at time.Time) error {
		due <- request{u.asked + i, at}
		return nil
	})
	close(due)
	wait.Wait()
	u.asked += total
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	if len(all) != total {
		return nil, fmt.Errorf("%d answers to %d requests", len(all), total)
	}
	return all, nil
}

// connection hands a way to send one request over one connection, and to check its answer, to use.
func (u *users) connection(ctx context.Context, use func(send func(int) error) error) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", u.address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	read := bufio.NewReader(conn)
	return use(func(i int) error {
		p := u.pages[i%len(u.pages)]
		want := p.status
		if !u.strict {
			want = http.StatusOK
		}
		if _, err := io.WriteString(conn, p.request); err != nil {
			return err
		}
		response, err := http.ReadResponse(read, nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		err = errors.Join(err, response.Body.Close())
		if response.StatusCode != want {
			err = errors.Join(err, fmt.Errorf("%.40q: %s, want %d", p.request, response.Status, want))
		}
		return err
	})
}

// bootstrap makes one listener for each server to ask.
func bootstrap(ask map[string]string) string {
	var listeners, clusters strings.Builder
	for name, address := range ask {
		filter := ""
		if address != "" {
			host, port, _ := strings.Cut(address, ":")
			filter = fmt.Sprintf(`
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              grpc_service: {envoy_grpc: {cluster_name: %s}, timeout: 5s}
              encode_raw_headers: true`, name)
			fmt.Fprintf(&clusters, `
  - name: %[1]s
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: %[1]s
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[2]s, port_value: %[3]s}}}}]}]`, name, host, port)
		}
		listeners.WriteString(listener(name, perRoute(address), filter))
	}
	return "static_resources:\n  listeners:" + listeners.String() + "\n  clusters:" + clusters.String() + "\n"
}

// listener answers by itself, after the filters.
func listener(name, perRoute, filters string) string {
	return fmt.Sprintf(`
  - name: %[1]s
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: %[1]s
          normalize_path: true
          route_config:
            virtual_hosts:
            - name: shop
              domains: ["*"]
              routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: menu}}}]
              %[2]s
          http_filters:%[3]s
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}`, name, perRoute, filters)
}

// perRoute names the workload that the question is about.
func perRoute(address string) string {
	if address == "" {
		return ""
	}
	return `typed_per_filter_config: {envoy.filters.http.ext_authz: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, ` +
		`check_settings: {context_extensions: {writ.namespace: shop, writ.labels: app=order}}}}`
}
