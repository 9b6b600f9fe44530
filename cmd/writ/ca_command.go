package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// ca is the parent of what operators do with the certificate authority.
func (c *cli) ca() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Operate the certificate authority: its keys, roots, ledger and revocations",
		Long: "The commands below speak to a running authority through its admin socket, or, when none runs, open the state that\n" +
			"-c names. What they change is in the audit log, with who changed it.",
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.caInit(), c.caShow(), c.caBundle(), c.caList(), c.caRevoke(), c.caRotate(), c.caBackup(), c.caRestore(), c.caVerify())
	return cmd
}

// withControl finds the authority, lets f ask it, and lets go of it.
func (c *cli) withControl(cmd *cobra.Command, where *whereFlags, f func(context.Context, *control) error) (err error) {
	o, err := c.control(cmd.Context(), cmd, where)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	return f(cmd.Context(), o)
}

// askAuthority gets one answer of the authority: by GET, or by POST if there is a question.
func askAuthority[A any](c *cli, cmd *cobra.Command, where *whereFlags, path string, question any) (answer A, err error) {
	err = c.withControl(cmd, where, func(ctx context.Context, o *control) error {
		if question == nil {
			return o.get(ctx, path, &answer)
		}
		return o.post(ctx, path, question, &answer)
	})
	return answer, err
}

func (c *cli) caInit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init -c FILE",
		Short: "Make the root and the first intermediate",
		Long: "init makes an authority where there is none. writ serve does the same at its very first start, unless the ledger is a\n" +
			"database. With --root-out the root's key is written to that file and kept nowhere else: take it offline, and bring it\n" +
			"back when the intermediate is to be renewed (writ ca rotate intermediate) or the root to be rotated.\n\n" +
			"Exit codes: 0 made, 2 there is an authority, or was one whose keys are missing, 1 failed.",
		Example: "  writ ca init -c writ.yaml\n  writ ca init -c writ.yaml --root-out /media/safe/root.key",
		Args:    cobra.NoArgs,
	}
	file := cmd.Flags().StringP("config", "c", "", "configuration `file` of the authority")
	rootOut := cmd.Flags().String("root-out", "", "write the root's key to this `file`, which must not exist, and keep it nowhere else")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *file == "" {
			return usagef("ca init: which authority? -c writ.yaml")
		}
		cfg, err := c.caConfig(*file)
		if err != nil {
			return err
		}
		report, err := c.initCA(cmd.Context(), cfg, *rootOut)
		if err != nil {
			return err
		}
		if out.value != "text" {
			return out.encode(c.out, report)
		}
		sw := &statusWriter{colours: c.colours(c.out), now: time.Now()}
		sw.b.WriteString("a new authority was made\n")
		sw.certificates(report)
		_, err = io.WriteString(c.out, sw.b.String())
		return err
	}
	return cmd
}

func (c *cli) initCA(ctx context.Context, cfg *config, rootOut string) (report *caReport, err error) {
	state, err := openCAState(ctx, cfg, c.env, slog.New(slog.DiscardHandler), true)
	if err != nil {
		return nil, notRunning(cfg, err)
	}
	defer func() { err = errors.Join(err, state.close()) }()
	if err := state.init(ctx, rootOut); err != nil {
		return nil, refusedInit(err)
	}
	r := state.report(ctx)
	return &r, nil
}

func (c *cli) caShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show what the authority holds: keys, roots, rotation, CRLs, alarms",
		Args:  cobra.NoArgs,
	}
	where := &whereFlags{}
	where.flags(cmd)
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := askAuthority[caReport](c, cmd, where, "/ca", nil)
		if err != nil {
			return err
		}
		if out.value != "text" {
			return out.encode(c.out, r)
		}
		sw := &statusWriter{colours: c.colours(c.out), now: time.Now()}
		for _, w := range r.warnings() {
			fmt.Fprintf(&sw.b, "%s %s\n", sw.colours.yellow("!"), printable(w))
		}
		sw.certificates(&r)
		_, err = io.WriteString(c.out, strings.TrimPrefix(sw.b.String(), "\n"))
		return err
	}
	return cmd
}

func (c *cli) caBundle() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Print the roots that the trust domain trusts now",
		Long: "bundle prints what verifiers need: PEM, or with --format spiffe the bundle document of SPIFFE federation, which has\n" +
			"the version as its sequence.",
		Example: "  writ ca bundle -c writ.yaml >root.pem",
		Args:    cobra.NoArgs,
	}
	where := &whereFlags{}
	where.flags(cmd)
	shape := cmd.Flags().String("format", "pem", "pem or spiffe")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *shape != "pem" && *shape != "spiffe" {
			return usagef("ca bundle: --format %q: want pem or spiffe%s", *shape, didYouMean(*shape, []string{"pem", "spiffe"}))
		}
		r, err := askAuthority[caserver.BundleResponse](c, cmd, where, "/ca/bundle", nil)
		if err != nil {
			return err
		}
		if *shape == "pem" {
			_, err = io.WriteString(c.out, r.PEM)
			return err
		}
		var text bytes.Buffer
		if err := json.Indent(&text, r.SPIFFE, "", "  "); err != nil {
			return fmt.Errorf("the authority's answer: %w", err)
		}
		text.WriteByte('\n')
		_, err = text.WriteTo(c.out)
		return err
	}
	return cmd
}

// subjectFlags name what is revoked.
type subjectFlags struct{ serial, id, key string }

func (f *subjectFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.serial, "serial", "", "the certificate with this serial `number`, in hex")
	cmd.Flags().StringVar(&f.id, "id", "", "the identity `spiffe://…`")
	cmd.Flags().StringVar(&f.key, "key", "", "the key with this `hash`, SHA-256 of its SubjectPublicKeyInfo in hex")
}

func (f *subjectFlags) spiffeID() (spiffeid.ID, error) {
	if f.id == "" {
		return spiffeid.ID{}, nil
	}
	id, err := spiffeid.Parse(f.id)
	if err != nil {
		return id, usagef("--id: %w", err)
	}
	return id, nil
}

func (c *cli) caRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke",
		Short: "Deny a certificate, an identity or a key from now on",
		Long: "revoke takes effect at once and everywhere: nothing is issued or renewed, authz denies requests whatever policies say,\n" +
			"and the CRLs list every certificate concerned. --lift takes an identity or a key off the deny list again; the\n" +
			"revocation of a certificate is for good.",
		Example: "  writ ca revoke -c writ.yaml --id spiffe://cluster.local/ns/coffee-shop/sa/order --reason keyCompromise",
		Args:    cobra.NoArgs,
	}
	where, subject := &whereFlags{}, &subjectFlags{}
	where.flags(cmd)
	subject.flags(cmd)
	reason := cmd.Flags().String("reason", "unspecified", "why, a `name` of RFC 5280: "+strings.Join(ca.RevocationReasons(), ", "))
	lift := cmd.Flags().Bool("lift", false, "lift the revocation of an identity or a key")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		id, err := subject.spiffeID()
		if err != nil {
			return err
		}
		if err := ca.CheckReason(*reason); err != nil {
			return usagef("ca revoke: --%w%s", err, didYouMean(*reason, ca.RevocationReasons()))
		}
		request := caserver.RevokeRequest{Serial: subject.serial, ID: id, Key: strings.ToLower(subject.key), Reason: *reason}
		path, done := "/ca/revoke", "revoked"
		if *lift {
			request.Reason = ""
			path, done = "/ca/unrevoke", "no longer revoked"
		}
		if _, err := askAuthority[struct{}](c, cmd, where, path, request); err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s %s\n", describeSubject(subject), done)
		return err
	}
	return cmd
}

func describeSubject(f *subjectFlags) string {
	switch {
	case f.serial != "":
		return "certificate " + f.serial
	case f.key != "":
		return "key " + f.key
	}
	return f.id
}
