package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/caserver"
)

// warnings are what somebody has to look at: alarms, and keys of token issuers that cannot be had.
func (r *caReport) warnings() []string {
	var out []string
	for _, a := range r.Alarms {
		out = append(out, fmt.Sprintf("certificates: %s: %s", a.Code, a.Detail))
	}
	keys := tokensReport{Sources: r.Keys}
	return append(out, keys.warnings()...)
}

// certificates shows what the certificate authority holds.
func (sw *statusWriter) certificates(r *caReport) {
	fmt.Fprintf(&sw.b, "\n%s of %s, replica %s\n", sw.colours.bold("certificates"), r.TrustDomain, r.Replica)
	keys := "keys encrypted"
	switch {
	case r.Plugged != "":
		keys = "no keys"
	case !r.Encrypted:
		keys = sw.colours.yellow("keys not encrypted")
	}
	rows := [][]string{{"ledger", printable(r.Store), keys}}
	if r.Plugged != "" {
		device := ""
		if r.Device != "" {
			device = "its " + printable(r.Device)
		}
		rows = append(rows, []string{"plugged in", printable(r.Plugged), device})
	}
	if r.Signer != nil {
		rows = append(rows, []string{"signs with", issuerLabel(r.Signer), sw.until(r.Signer.NotAfter)})
	} else {
		rows = append(rows, []string{"signs with", sw.colours.red("nothing"), ""})
	}
	for _, root := range r.Roots {
		rows = append(rows, []string{"root", issuerLabel(&root.Issuer), rootState(&root) + ", " + sw.until(root.NotAfter)})
	}
	bundle := fmt.Sprintf("version %d", r.Bundle)
	if r.Phase != "" {
		bundle += ", rotation " + string(r.Phase)
	}
	rows = append(rows, []string{"bundle", bundle, ""}, []string{"revoked", fmt.Sprint(r.Revoked), crls(r.CRLs, sw)})
	if s := r.Server; s != nil {
		own := sw.colours.red("none yet")
		if s.Certificate != "" {
			own = s.Certificate
		}
		rows = append(rows, []string{"own certificate", own, sw.until(s.NotAfter)})
	}
	sw.table(rows)
	if len(r.Answers) > 0 {
		counts := make([]string, 0, len(r.Answers))
		for _, a := range r.Answers {
			counts = append(counts, fmt.Sprintf("%d %s", a.Count, a.Outcome))
		}
		fmt.Fprintf(&sw.b, "  since the start: %s\n", strings.Join(counts, ", "))
	}
}

// issuerLabel is an issuer's common name and enough of its key identifier to tell it from others of that name.
func issuerLabel(i *caserver.Issuer) string {
	name := i.Subject
	if _, cn, ok := strings.Cut(name, "CN="); ok {
		name, _, _ = strings.Cut(cn, ",")
	}
	return printable(name) + " " + shortHash(i.KeyID)
}

func rootState(r *caserver.Root) string {
	state := string(r.State)
	if r.Offline {
		state += ", its key kept elsewhere"
	}
	return state
}

// crls says how many lists there are and until when the first is good.
func crls(list []caserver.CRL, sw *statusWriter) string {
	if len(list) == 0 {
		return "no CRL"
	}
	first := list[0].NextUpdate
	for _, l := range list {
		if l.NextUpdate.Before(first) {
			first = l.NextUpdate
		}
	}
	return plural(len(list), "CRL") + ", " + sw.until(first)
}

// until says when something ends, and how far off that is.
func (sw *statusWriter) until(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	if !sw.now.Before(t) {
		return sw.colours.red("ended " + t.UTC().Format(time.RFC3339))
	}
	return "until " + t.UTC().Format(time.RFC3339) + " (" + spell(t.Sub(sw.now).Round(time.Second)) + ")"
}

// certificateState is the state of a ledger entry in one word, at a time.
func certificateState(c *caserver.Certificate, now time.Time) string {
	switch {
	case c.Revoked != nil:
		return "revoked"
	case c.State != ca.StateIssued:
		return c.State
	case !now.Before(c.NotAfter):
		return "expired"
	default:
		return "live"
	}
}
