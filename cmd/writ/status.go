package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/internal/telemetry"
	"github.com/writ-auth/writ/policy"
)

const (
	adminTimeout     = 10 * time.Second
	maxStatusBytes   = 64 << 20
	maxDocumentsList = 40 // listed without --all
)

func (c *cli) status() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what a running authority holds",
		Long: "status asks a running authority, through its admin socket, which documents it enforces, which are broken and why,\n" +
			"which keys and roots it issues certificates with, where it listens and what it answered.\n\nExit codes: 0 it answered, 1 it did not.",
		Example: "  writ status -c writ.yaml\n  writ status --admin unix:///run/writ/admin.sock -o json",
		Args:    cobra.NoArgs,
	}
	file := cmd.Flags().StringP("config", "c", "", "configuration `file` of the authority, or of the agent")
	admin := cmd.Flags().String("admin", "", "`address` of its admin socket: unix:///path")
	all := cmd.Flags().Bool("all", false, "list all documents, however many")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		where, err := c.adminAddress(*file, *admin)
		if err != nil {
			return err
		}
		var report statusReport
		if err := askAdmin(cmd.Context(), where, "/status", &report); err != nil {
			return err
		}
		if out.value != "text" {
			return out.encode(c.out, report)
		}
		sw := &statusWriter{colours: c.colours(c.out), all: *all, now: time.Now()}
		return sw.write(c.out, &report)
	}
	return cmd
}

// adminAddress finds the admin socket: the flag, else the configuration.
func (c *cli) adminAddress(file, admin string) (address, error) {
	if admin == "" && file == "" {
		return address{}, usagef("status: which authority? -c writ.yaml, or --admin unix:///run/writ/admin.sock")
	}
	if admin == "" {
		configured, err := c.configuredAdmin(file)
		if err != nil {
			return address{}, err
		}
		if configured == "" {
			return address{}, fmt.Errorf("%s has no admin socket: add admin: unix:///run/writ/admin.sock and restart the authority", file)
		}
		admin = configured
	}
	where, err := parseAddress(admin)
	if err != nil {
		return address{}, usagef("--admin %w", err)
	}
	if where.network != "unix" {
		return address{}, usagef("--admin %q: the admin interface is a Unix socket: unix:///run/writ/admin.sock", admin)
	}
	return where, nil
}

// askAdmin gets path from the admin socket into answer.
func askAdmin(ctx context.Context, where address, path string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, where.network, where.address)
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+path, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return fmt.Errorf("no authority answers at %s: is writ serve running, with this admin address, and may you open the socket? (%w)", where, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s to %s: is it an authority of this version?", where, response.Status, path)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxStatusBytes)).Decode(answer); err != nil {
		return fmt.Errorf("%s: the answer to %s cannot be read: %w", where, path, err)
	}
	return nil
}

// statusWriter shows a status to people.
type statusWriter struct {
	b       strings.Builder
	colours palette
	all     bool
	now     time.Time
}

func (sw *statusWriter) write(w io.Writer, r *statusReport) error {
	state := sw.colours.green("ready")
	if !r.Ready {
		state = sw.colours.red("not ready")
	}
	fmt.Fprintf(&sw.b, "writ %s is %s, up %s\n", r.Build.Version, state, sw.since(r.Started))
	for _, reason := range r.Reasons {
		fmt.Fprintf(&sw.b, "  %s %s\n", sw.colours.red("!"), printable(reason))
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(&sw.b, "  %s %s\n", sw.colours.yellow("!"), printable(warning))
	}
	sw.listeners(r)
	if r.Tokens.Mode != "" { // it answers checks
		sw.documents(&r.Documents)
		sw.tokens(&r.Tokens)
		sw.providers(r.Providers)
		sw.checks(r)
		sw.trials(r.Trials)
	}
	if r.CA != nil {
		sw.certificates(r.CA)
		sw.followers(r.CA)
	}
	if r.Agent != nil {
		sw.agent(r.Agent)
	}
	_, err := io.WriteString(w, sw.b.String())
	return err
}

func (sw *statusWriter) since(t time.Time) string {
	d := sw.now.Sub(t)
	if d < time.Minute {
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}

// table writes rows with aligned columns.
func (sw *statusWriter) table(rows [][]string) {
	tw := tabwriter.NewWriter(&sw.b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for len(row) > 0 && row[len(row)-1] == "" { // would be padded
			row = row[:len(row)-1]
		}
		_, _ = fmt.Fprintln(tw, "  "+strings.Join(row, "\t"))
	}
	_ = tw.Flush()
}

func (sw *statusWriter) listeners(r *statusReport) {
	sw.b.WriteString("\n" + sw.colours.bold("listeners") + "\n")
	var rows [][]string
	for _, l := range r.Listeners {
		row := []string{l.Name, l.Address}
		if l.TLS {
			row = append(row, "TLS")
		}
		rows = append(rows, row)
	}
	sw.table(rows)
}

func (sw *statusWriter) documents(d *documentsReport) {
	fmt.Fprintf(&sw.b, "\n%s %s\n", sw.colours.bold("documents"), printable(d.Path))
	if d.Generation == 0 {
		sw.b.WriteString("  none loaded yet\n")
	} else {
		fmt.Fprintf(&sw.b, "  generation %d (%s), loaded %s ago: %s\n", d.Generation, shortHash(d.Hash), sw.since(*d.Loaded), states(d.States))
	}
	if d.LastLoad.Error != "" {
		fmt.Fprintf(&sw.b, "  last load %s ago failed: %s\n", sw.since(d.LastLoad.Time), printable(d.LastLoad.Error))
	}
	var rows [][]string
	for i := range d.Documents {
		s := &d.Documents[i]
		if !sw.all && len(d.Documents) > maxDocumentsList && s.State == policy.StateActive {
			continue
		}
		rows = append(rows, []string{string(s.State), printable(s.Object.String()), printable(fmt.Sprintf("%s:%d", s.File, s.Line))})
	}
	sw.table(rows)
	if hidden := len(d.Documents) - len(rows); hidden > 0 {
		fmt.Fprintf(&sw.b, "  and %d active (--all lists them)\n", hidden)
	}
}

// states counts documents by state, in words.
func states(counts map[string]int) string {
	var parts []string
	for _, s := range []policy.DocumentState{policy.StateActive, policy.StateLastGood, policy.StateFailClosed, policy.StateIgnored} {
		if n := counts[string(s)]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	if len(parts) == 0 {
		return "no documents"
	}
	return strings.Join(parts, ", ")
}

// tokens shows how tokens are verified, with a line for each key set that is fetched.
func (sw *statusWriter) tokens(r *tokensReport) {
	if r.Mode == string(authz.TokensMetadata) {
		fmt.Fprintf(&sw.b, "\n%s verified by the proxies\n", sw.colours.bold("tokens"))
		return
	}
	cache := "no cache"
	if r.Cache != nil {
		cache = fmt.Sprintf("%d in the cache, about %d KiB", r.Cache.Entries, (r.Cache.Bytes+1023)>>10)
	}
	fmt.Fprintf(&sw.b, "\n%s verified here, %s\n", sw.colours.bold("tokens"), cache)
	rows := make([][]string, 0, len(r.Sources))
	for i := range r.Sources {
		s := &r.Sources[i]
		next := ""
		if s.Keys == 0 && !s.NextAttempt.IsZero() {
			next = "next attempt in " + max(s.NextAttempt.Sub(sw.now), 0).Round(time.Second).String()
		}
		rows = append(rows, []string{telemetry.KeyState(s), plural(s.Keys, "key"), printable(s.URL), next})
	}
	sw.table(rows)
}

func (sw *statusWriter) checks(r *statusReport) {
	sw.b.WriteString("\n" + sw.colours.bold("checks") + "\n")
	slices.SortStableFunc(r.Checks, func(a, b telemetry.CheckCount) int { return int(b.Count) - int(a.Count) })
	rows := [][]string{}
	for _, n := range r.Checks {
		rows = append(rows, []string{fmt.Sprint(n.Count), n.Decision, n.Layer, n.Reason})
	}
	if len(rows) == 0 {
		rows = append(rows, []string{"none yet"})
	}
	sw.table(rows)
	sw.overload(r.Overload)
	if r.DecisionLog.Dropped > 0 {
		fmt.Fprintf(&sw.b, "  %d decision log lines were lost: %s is too slow\n", r.DecisionLog.Dropped, r.DecisionLog.To)
	}
}
