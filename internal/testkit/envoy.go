package testkit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// adminConfig is merged into every bootstrap: Envoy picks the port and writes it to --admin-address-path.
const adminConfig = `admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}`

// Envoy is a running Envoy that answers on its admin address.
type Envoy struct {
	*Process
	Admin string // host:port of the admin interface

	listeners map[string]string
}

// EnvoyConfig says what to run.
type EnvoyConfig struct {
	Name      string    // for messages, and Envoy's node ID and cluster
	Binary    string    // empty = EnvoyPath
	Bootstrap string    // YAML without an admin block
	Dir       string    // existing folder for its files
	Tee       io.Writer // gets its output as well; nil = nobody
}

// EnvoyPath finds an Envoy binary as scripts/envoy.sh does, and fetches one when there is none. The error says what to
// do.
func EnvoyPath(ctx context.Context) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "scripts", "envoy.sh"))
	cmd.Dir = root
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("no Envoy: %w\n%s", err, stderr.String())
	}
	path := strings.TrimSpace(stdout.String())
	if !filepath.IsAbs(path) {
		path = filepath.Join(root, path)
	}
	return path, nil
}

// StartEnvoy runs Envoy with one worker and returns once all its listeners are up.
func StartEnvoy(ctx context.Context, cfg EnvoyConfig) (*Envoy, error) {
	if cfg.Binary == "" {
		path, err := EnvoyPath(ctx)
		if err != nil {
			return nil, err
		}
		cfg.Binary = path
	}
	bootstrap := filepath.Join(cfg.Dir, cfg.Name+"-envoy.yaml")
	if err := os.WriteFile(bootstrap, []byte(cfg.Bootstrap), 0o600); err != nil {
		return nil, err
	}
	adminPath := filepath.Join(cfg.Dir, cfg.Name+"-envoy-admin.txt")
	if err := os.RemoveAll(adminPath); err != nil {
		return nil, err
	}
	process, err := StartProcess(cfg.Name+" Envoy", cfg.Binary, []string{
		"--config-path", bootstrap, "--config-yaml", adminConfig, "--admin-address-path", adminPath,
		"--service-node", cfg.Name, "--service-cluster", cfg.Name,
		"--concurrency", "1", "--disable-hot-restart", "--file-flush-interval-msec", "20", "--log-level", "warning",
		"--drain-time-s", "1", "--parent-shutdown-time-s", "2",
	}, cfg.Tee)
	if err != nil {
		return nil, err
	}
	envoy := &Envoy{Process: process}
	if err := process.wait(ctx, "ready", func(ctx context.Context) error { return envoy.ready(ctx, adminPath) }); err != nil {
		process.Stop()
		return nil, err
	}
	return envoy, nil
}

// ready learns the admin address and the listeners' addresses.
func (e *Envoy) ready(ctx context.Context, adminPath string) error {
	admin, err := os.ReadFile(adminPath)
	if err != nil {
		return err
	}
	if len(admin) == 0 {
		return fmt.Errorf("%s is still empty", adminPath)
	}
	e.Admin = string(admin)
	if _, err := getOK(ctx, "http://"+e.Admin+"/ready"); err != nil {
		return err
	}
	body, err := getOK(ctx, "http://"+e.Admin+"/listeners?format=json")
	if err != nil {
		return err
	}
	var list struct {
		Statuses []struct {
			Name    string `json:"name"`
			Address struct {
				Socket struct {
					Address string `json:"address"`
					Port    uint16 `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return fmt.Errorf("listeners of %s: %w", e.Name, err)
	}
	e.listeners = make(map[string]string, len(list.Statuses))
	for _, l := range list.Statuses {
		e.listeners[l.Name] = net.JoinHostPort(l.Address.Socket.Address, strconv.Itoa(int(l.Address.Socket.Port)))
	}
	return nil
}

// Listener is the address of the named listener, whose port may be 0 in the bootstrap. An unknown name is a mistake of
// the caller and panics.
func (e *Envoy) Listener(name string) string {
	address, ok := e.listeners[name]
	if !ok {
		panic(fmt.Sprintf("%s has no listener %q, only %v", e.Name, name, e.listeners))
	}
	return address
}

// Counter is the value of one statistic; one that does not exist (yet) is 0.
func (e *Envoy) Counter(ctx context.Context, name string) (uint64, error) {
	body, err := getOK(ctx, "http://"+e.Admin+"/stats?format=json")
	if err != nil {
		return 0, err
	}
	var stats struct {
		Stats []struct {
			Name  string          `json:"name"`
			Value json.RawMessage `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(body, &stats); err != nil {
		return 0, fmt.Errorf("statistics of %s: %w", e.Name, err)
	}
	for _, s := range stats.Stats {
		if s.Name == name {
			return strconv.ParseUint(string(s.Value), 10, 64)
		}
	}
	return 0, nil
}
