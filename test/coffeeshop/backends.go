package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

// answer is what every service of the shop replies.
type answer struct {
	Service  string `json:"service"`
	Did      string `json:"did"`
	Customer string `json:"customer,omitempty"` // whom x-customer-id names
	Token    bool   `json:"token,omitempty"`    // whether the customer's token reached it
	Calls    []call `json:"calls,omitempty"`    // what it had to ask others for
}

// call is one request a service made to another.
type call struct {
	Request string `json:"request"`
	Status  int    `json:"status"`
}

// service is a backend that knows nothing of identities or policies: its sidecar does.
func service(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusOK, answer{
			Service: name, Did: r.Method + " " + r.URL.Path,
			Customer: r.Header.Get("x-customer-id"), Token: r.Header.Get("authorization") != "",
		})
	})
}

// orderService takes orders, for which it needs three other services.
type orderService struct {
	// outbound is the address of its sidecar's outbound listener, nil until that is up.
	outbound atomic.Pointer[string]
}

func (o *orderService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	done := answer{Service: "order-service", Did: r.Method + " " + r.URL.Path}
	if r.Method != http.MethodPost || r.URL.Path != "/orders" {
		reply(w, http.StatusOK, done)
		return
	}
	status := http.StatusCreated
	for _, next := range []struct {
		service, method, path, header string
	}{
		{"inventory-service", http.MethodGet, "/inventory/espresso", ""},
		{"payment-service", http.MethodPost, "/payments", "idempotency-key"},
		{"barista-service", http.MethodPost, "/brews", "x-order-id"},
	} {
		got, err := o.call(r.Context(), next.service, next.method, next.path, next.header)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		done.Calls = append(done.Calls, call{next.service + ": " + next.method + " " + next.path, got})
		if got != http.StatusOK {
			status = http.StatusBadGateway
			break
		}
	}
	reply(w, status, done)
}

// call asks another service through the own sidecar, which adds mTLS and the identity.
func (o *orderService) call(ctx context.Context, service, method, path, header string) (status int, err error) {
	outbound := o.outbound.Load()
	if outbound == nil {
		return 0, fmt.Errorf("order-service: its sidecar is not up yet")
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+*outbound+path, nil)
	if err != nil {
		return 0, err
	}
	req.Host = service
	if header != "" {
		req.Header.Set(header, "order-7")
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, err
}

func reply(w http.ResponseWriter, status int, a answer) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	var line strings.Builder
	_ = json.NewEncoder(&line).Encode(a) // a struct of strings and numbers
	_, _ = io.WriteString(w, line.String())
}
