package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/ca/caserver"
)

const maxListed = 100_000

// listFlags say what to list.
type listFlags struct {
	subject        subjectFlags
	caller, issuer string
	after, before  string
	live, pem      bool
	revoked, audit bool
	limit          int
}

func (f *listFlags) flags(cmd *cobra.Command) {
	f.subject.flags(cmd)
	cmd.Flags().StringVar(&f.caller, "caller", "", "only those this `caller` asked for, as the list shows it")
	cmd.Flags().StringVar(&f.issuer, "issuer", "", "only those of the issuer with this `key identifier`, in hex")
	cmd.Flags().StringVar(&f.after, "after", "", "only from this `time` on, in RFC 3339, or a duration ago such as 24h")
	cmd.Flags().StringVar(&f.before, "before", "", "only before this `time`, or duration ago")
	cmd.Flags().BoolVar(&f.live, "live", false, "only those that are good now: issued, not expired, not revoked")
	cmd.Flags().BoolVar(&f.pem, "pem", false, "with the certificates themselves")
	cmd.Flags().BoolVar(&f.revoked, "revoked", false, "the deny list instead")
	cmd.Flags().BoolVar(&f.audit, "audit", false, "the audit log instead")
	cmd.Flags().IntVar(&f.limit, "limit", 100, "at most so many, newest first")
}

func (c *cli) caList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List certificates of the ledger, the deny list or the audit log",
		Long: "list shows what was issued to whom, by whom they were let in, and until when it is good: newest first. The ledger has\n" +
			"every certificate that was ever issued, and every attempt that came to nothing.",
		Example: "  writ ca list -c writ.yaml --live --id spiffe://cluster.local/ns/coffee-shop/sa/order\n  writ ca list -c writ.yaml --audit --after 24h",
		Args:    cobra.NoArgs,
	}
	where, f := &whereFlags{}, &listFlags{}
	where.flags(cmd)
	f.flags(cmd)
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		query, err := f.query(time.Now())
		if err != nil {
			return err
		}
		return c.withControl(cmd, where, func(ctx context.Context, o *control) error {
			switch {
			case f.revoked:
				return c.listRevoked(ctx, o, out)
			case f.audit:
				return c.listEvents(ctx, o, out, query, f)
			default:
				return c.listCertificates(ctx, o, out, query, f)
			}
		})
	}
	return cmd
}

// query is the flags in the words of the admin interface.
func (f *listFlags) query(now time.Time) (caserver.ListRequest, error) {
	q := caserver.ListRequest{
		Serial: f.subject.serial, Key: strings.ToLower(f.subject.key), Caller: f.caller, Issuer: strings.ToLower(f.issuer), Live: f.live, PEM: f.pem,
	}
	if f.revoked && f.audit {
		return q, usagef("ca list: --revoked and --audit are two lists: give one of them")
	}
	if f.limit < 1 || f.limit > maxListed {
		return q, usagef("ca list: --limit %d: want 1 to %d", f.limit, maxListed)
	}
	var err error
	if q.ID, err = f.subject.spiffeID(); err != nil {
		return q, err
	}
	if q.After, err = timeFlag("--after", f.after, now); err != nil {
		return q, err
	}
	q.Before, err = timeFlag("--before", f.before, now)
	return q, err
}

// timeFlag reads a time, or how long ago it was.
func timeFlag(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usagef("%s %q: want a time such as 2026-08-01T12:00:00Z, or a duration ago such as 24h", flag, text)
	}
	return t, nil
}

// listCertificates collects pages until the limit.
func (c *cli) listCertificates(ctx context.Context, o *control, out *format, q caserver.ListRequest, f *listFlags) error {
	all := caserver.ListResponse{Certificates: []caserver.Certificate{}}
	for {
		q.Limit = min(f.limit-len(all.Certificates), 1000)
		var page caserver.ListResponse
		if err := o.post(ctx, "/ca/list", q, &page); err != nil {
			return err
		}
		all.Certificates, all.Next = append(all.Certificates, page.Certificates...), page.Next
		if page.Next == "" || len(all.Certificates) >= f.limit {
			break
		}
		q.Cursor = page.Next
	}
	if out.value != "text" {
		return out.encode(c.out, all)
	}
	sw := &statusWriter{colours: c.colours(c.out), now: time.Now()}
	rows := [][]string{}
	for i := range all.Certificates {
		e := &all.Certificates[i]
		detail := sw.until(e.NotAfter)
		if e.Failure != "" {
			detail = printable(e.Failure)
		}
		rows = append(rows, []string{certificateState(e, sw.now), e.Serial, printable(e.ID.String()), printable(shortCaller(e.Caller)), detail})
		if e.PEM != "" {
			sw.rows(rows)
			rows = nil
			sw.b.WriteString(e.PEM)
		}
	}
	sw.rows(rows)
	if _, err := io.WriteString(c.out, sw.b.String()); err != nil {
		return err
	}
	if all.Next != "" {
		_, err := fmt.Fprintf(c.err, "there are more: --limit shows them\n")
		return err
	}
	return nil
}

// rows writes rows with aligned columns, from the margin on.
func (sw *statusWriter) rows(rows [][]string) {
	inner := &statusWriter{}
	inner.table(rows)
	for line := range strings.Lines(inner.b.String()) {
		sw.b.WriteString(strings.TrimPrefix(line, "  "))
	}
}

// shortCaller cuts the hash of a join token to what tells it from others.
func shortCaller(caller string) string {
	const most = 16
	head, hash, ok := strings.Cut(caller, "join_token:")
	if ok && len(hash) > most {
		return head + "join_token:" + hash[:most]
	}
	return caller
}

func (c *cli) listRevoked(ctx context.Context, o *control, out *format) error {
	var list []caserver.Revocation
	if err := o.get(ctx, "/ca/revocations", &list); err != nil {
		return err
	}
	if out.value != "text" {
		return out.encode(c.out, list)
	}
	sw := &statusWriter{colours: c.colours(c.out), now: time.Now()}
	rows := make([][]string, 0, len(list))
	for _, r := range list {
		what, name := "identity", r.ID.String()
		switch {
		case r.Serial != "":
			what, name = "certificate", r.Serial
		case r.Key != "":
			what, name = "key", r.Key
		}
		rows = append(rows, []string{r.At.UTC().Format(time.RFC3339), what, printable(name), printable(r.Reason), printable(r.By)})
	}
	sw.rows(rows)
	_, err := io.WriteString(c.out, sw.b.String())
	return err
}

func (c *cli) listEvents(ctx context.Context, o *control, out *format, q caserver.ListRequest, f *listFlags) error {
	var list []caserver.Event
	request := caserver.EventsRequest{After: q.After, Before: q.Before, Limit: min(f.limit, 1000)}
	if err := o.post(ctx, "/ca/events", request, &list); err != nil {
		return err
	}
	if out.value != "text" {
		return out.encode(c.out, list)
	}
	sw := &statusWriter{colours: c.colours(c.out), now: time.Now()}
	rows := make([][]string, 0, len(list))
	for _, e := range list {
		rows = append(rows, []string{e.At.UTC().Format(time.RFC3339), printable(e.What), printable(e.By), printable(e.Detail)})
	}
	sw.rows(rows)
	_, err := io.WriteString(c.out, sw.b.String())
	return err
}
