package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/writ-auth/writ/sds"
	"github.com/writ-auth/writ/sds/agent"
)

// agentReport is what an agent holds, as writ status tells it.
type agentReport struct {
	agent.Status
	sds.Snapshot
}

// configuredAdmin is the admin socket of an authority's or an agent's configuration, empty if it has none.
func (c *cli) configuredAdmin(file string) (string, error) {
	if isAgentConfig(file) {
		cfg, err := c.loadAgentConfig(file, nil)
		if err != nil {
			return "", err
		}
		return cfg.Admin, nil
	}
	cfg, err := c.loadConfig(file, nil)
	if err != nil {
		return "", err
	}
	return cfg.Admin, nil
}

// validateAgent checks an agent's configuration and the roots it names.
func (c *cli) validateAgent(file string, sets []string, out *format) error {
	report := &validateReport{Config: []configProblem{}}
	cfg, err := loadAgentConfig(file, c.env, sets)
	var invalid configError
	switch {
	case errors.As(err, &invalid):
		report.Config = invalid
	case err != nil:
		return err
	default:
		if err := agent.CheckBundleFile(cfg.Authority.Bundle, cfg.TrustDomain); err != nil {
			report.Config = append(report.Config, configProblem{Source: file, Key: "authority.bundle", Message: err.Error()})
		}
	}
	report.Valid = len(report.Config) == 0
	if err := c.writeValidate(out, file, report, nil); err != nil {
		return err
	}
	if !report.Valid {
		return exitWith(exitInvalid)
	}
	return nil
}

// agent shows what an agent holds.
func (sw *statusWriter) agent(r *agentReport) {
	fmt.Fprintf(&sw.b, "\n%s %s\n", sw.colours.bold("agent of"), r.TrustDomain)
	var rows [][]string
	if r.Authority != "" {
		rows = append(rows, []string{"authority", printable(r.Authority)})
	} else {
		rows = append(rows, []string{"authority", "none has answered yet: " + printable(strings.Join(r.Authorities, ", "))})
	}
	if r.State != "" {
		rows = append(rows, []string{"state", printable(r.State)})
	} else {
		rows = append(rows, []string{"state", "none: nothing survives a restart"})
	}
	rows = append(rows, sw.bundleRows(r.Bundle)...)
	sw.table(rows)
	fmt.Fprintf(&sw.b, "\n%s\n", sw.colours.bold("identities"))
	sw.table(sw.identityRows(r))
	sw.identityErrors(r)
	sw.agentStreams(r.Streams)
	if len(r.Refusals) > 0 {
		fmt.Fprintf(&sw.b, "\n%s\n", sw.colours.bold("refused callers"))
		rows = nil
		for _, refused := range r.Refusals {
			rows = append(rows, []string{printable(refused.Caller), strconv.Itoa(refused.Times) + "×", "last " + sw.since(refused.Last) + " ago",
				string(refused.Reason), printable(refused.Detail)})
		}
		sw.table(rows)
	}
}

func (sw *statusWriter) bundleRows(b *agent.BundleStatus) [][]string {
	if b == nil {
		return [][]string{{"bundle", "none yet"}}
	}
	text := plural(b.Roots, "root")
	if b.Version > 0 {
		text = fmt.Sprintf("version %d, ", b.Version) + text
	}
	if b.Tainted > 0 {
		text += sw.colours.yellow(fmt.Sprintf(" (%d about to go)", b.Tainted))
	}
	if b.CRLs > 0 {
		text += ", " + plural(b.CRLs, "CRL")
	}
	switch {
	case b.Followed && b.Behind == "":
		text += ", followed at " + printable(b.From)
	case b.Followed:
		text += ", followed at " + printable(b.From) + ", " + sw.colours.yellow("not everywhere here: "+printable(b.Behind))
	default:
		text += ", as of the last certificate"
	}
	rows := [][]string{{"bundle", text}}
	if b.Error != "" {
		rows = append(rows, []string{"", sw.colours.yellow("!") + " " + printable(b.Error)})
	}
	return rows
}

func (sw *statusWriter) identityRows(r *agentReport) [][]string {
	rows := [][]string{sw.identityRow(&r.Own, "the agent's own")}
	for i := range r.Identities {
		if one := &r.Identities[i]; !one.Shared {
			rows = append(rows, sw.identityRow(one, ""))
		} else {
			rows[0][4] = "the agent's own, and a workload's"
		}
	}
	return rows
}

func (sw *statusWriter) identityRow(one *agent.IdentityStatus, note string) []string {
	name, until := "(not known yet)", "no certificate"
	if !one.ID.IsZero() {
		name = one.ID.String()
	}
	if !one.NotAfter.IsZero() {
		until = "until " + one.NotAfter.UTC().Format(time.RFC3339)
	}
	next := "next in " + max(one.Renewal.Sub(sw.now), 0).Round(time.Second).String() + " (" + one.Why + ")"
	alarm := one.Alarm
	switch alarm {
	case "ok":
		alarm = sw.colours.green(alarm)
	case "late":
		alarm = sw.colours.yellow(alarm)
	default:
		alarm = sw.colours.red(alarm)
	}
	return []string{name, alarm, until, next, note}
}

// identityErrors shows what went wrong the last time, below the table: it is long.
func (sw *statusWriter) identityErrors(r *agentReport) {
	for _, one := range append([]agent.IdentityStatus{r.Own}, r.Identities...) {
		if one.Error == "" || one.Shared {
			continue
		}
		name := "the agent's own"
		if !one.ID.IsZero() {
			name = one.ID.String()
		}
		fmt.Fprintf(&sw.b, "  %s %s, %s, last %s ago: %s\n", sw.colours.red("!"), name, plural(one.Failures, "failure"), sw.since(one.ErrorTime), printable(one.Error))
	}
}

// agentStreams shows who is served what.
func (sw *statusWriter) agentStreams(streams []sds.StreamStatus) {
	fmt.Fprintf(&sw.b, "\n%s\n", sw.colours.bold("streams"))
	if len(streams) == 0 {
		sw.b.WriteString("  none\n")
		return
	}
	var rows [][]string
	for _, st := range streams {
		who := st.Caller
		if st.Program != "" {
			who += " " + st.Program
		}
		for _, secret := range st.Secrets {
			rows = append(rows, []string{printable(who), printable(st.Node), st.Protocol, printable(secret.Name), sw.secretState(&secret)})
		}
	}
	sw.table(rows)
}

func (sw *statusWriter) secretState(s *sds.SecretStatus) string {
	switch {
	case s.Refused != "":
		return sw.colours.red("refused: ") + printable(s.Refused)
	case s.Rejected != "":
		return sw.colours.red("rejected "+s.Rejected+": ") + printable(s.Error)
	case s.Waiting != "":
		return sw.colours.yellow("waiting: ") + printable(s.Waiting)
	case s.Acked == s.Sent:
		return "has " + s.Acked
	default:
		return sw.colours.yellow("sent " + s.Sent + ", not acknowledged")
	}
}
