package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// orderEvery is the pause between two orders of one client: continuous, and no load test.
const orderEvery = 40 * time.Millisecond

// traffic is customer-service ordering again and again, by connections that stand and by new ones. order-service asks three
// others each time, through its Envoy, so the certificates of four services are in every order.
type traffic struct {
	cancel context.CancelFunc // nil until it is started
	wg     sync.WaitGroup

	mu           sync.Mutex
	orders, lost int
	first        string // why the first was lost
}

// start orders until stop is called or ctx ends.
func (t *traffic) start(ctx context.Context, s *shop) error {
	ctx, t.cancel = context.WithCancel(ctx)
	for _, fresh := range []bool{false, true} {
		client, err := s.client("customer-service", "order-service")
		if err != nil {
			return err
		}
		client.Timeout = patience
		client.Transport.(*http.Transport).DisableKeepAlives = fresh
		t.wg.Go(func() {
			defer client.CloseIdleConnections()
			t.order(ctx, s, client)
		})
	}
	return nil
}

func (t *traffic) order(ctx context.Context, s *shop, client *http.Client) {
	tick := time.NewTicker(orderEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		err := s.order(ctx, client)
		if ctx.Err() != nil {
			return // cut off by the end, and so neither
		}
		t.mu.Lock()
		t.orders++
		if err != nil {
			t.lost++
			if t.first == "" {
				t.first = err.Error()
			}
		}
		t.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (s *shop) order(ctx context.Context, client *http.Client) error {
	req, err := s.ask(ctx, request{"customer-service", "order-service", http.MethodPost, "/orders", "", "", "", ""}, "traffic")
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("an order was answered %s", resp.Status)
	}
	return nil
}

// take returns what has happened since it was asked last.
func (t *traffic) take() (orders, lost int, first string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	orders, lost, first = t.orders, t.lost, t.first
	t.orders, t.lost, t.first = 0, 0, ""
	return orders, lost, first
}

// stop ends it, if it was started.
func (t *traffic) stop() {
	if t.cancel != nil {
		t.cancel()
		t.wg.Wait()
	}
}
