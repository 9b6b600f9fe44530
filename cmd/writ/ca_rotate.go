package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/caserver"
)

// rotationSteps are the steps of a root rotation, in order, with what each does.
func rotationSteps() []struct{ step, does string } {
	return []struct{ step, does string }{
		{string(ca.StepPrepare), "make the new root and try it; nobody sees it yet"},
		{string(ca.StepDistribute), "publish the new root beside the old; wait until everyone has it"},
		{string(ca.StepActivate), "issue under the new root; refused while somebody lacks it"},
		{string(ca.StepTaint), "have every certificate under the old root renewed at once; refused while somebody has not come back"},
		{string(ca.StepRevoke), "remove the old root; refused while a certificate under it is live"},
		{string(ca.StepRollback), "go back; possible until revoke"},
	}
}

func (c *cli) caRotate() *cobra.Command {
	var steps strings.Builder
	for _, s := range rotationSteps() {
		fmt.Fprintf(&steps, "  %-11s %s\n", s.step, s.does)
	}
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the root, step by step, without an outage",
		Long: "rotate takes one step of a root rotation. A step that would cut somebody off is refused, and names who still depends\n" +
			"on the old state:\n\n" + steps.String() + "\n" +
			"Exit codes: 0 taken, 2 refused, 1 failed. What to look at between the steps: docs/ca.md.",
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, s := range rotationSteps() {
		cmd.AddCommand(c.caRotateStep(s.step, s.does))
	}
	cmd.AddCommand(c.caRotateIntermediate())
	return cmd
}

func (c *cli) caRotateStep(step, does string) *cobra.Command {
	what, _, _ := strings.Cut(does, ";")
	cmd := &cobra.Command{Use: step, Short: strings.ToUpper(what[:1]) + what[1:], Args: cobra.NoArgs}
	where := &whereFlags{}
	where.flags(cmd)
	request := caserver.RotateRequest{Step: ca.Step(step)}
	cmd.Flags().BoolVar(&request.Override, "override", false, "go on although somebody depends on the old state and will be cut off; needs --reason")
	cmd.Flags().StringVar(&request.Reason, "reason", "", "why, for the audit log")
	if step == string(ca.StepPrepare) {
		cmd.Flags().StringVar(&request.RootOut, "root-out", "", "write the new root's key to this `file` and keep it nowhere else")
	}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if request.Override && request.Reason == "" {
			return usagef("ca rotate %s: --override needs --reason, for the audit log", step)
		}
		if err := absolute(&request.RootOut); err != nil {
			return err
		}
		r, err := askAuthority[caserver.RotateResponse](c, cmd, where, "/ca/rotate", request)
		if err != nil {
			return err
		}
		if err := c.writeRotation(out, step, &r); err != nil {
			return err
		}
		if r.Refused != nil {
			return exitWith(exitNo)
		}
		return nil
	}
	return cmd
}

// absolute makes a path one for a process with another working directory; empty stays empty.
func absolute(path *string) error {
	if *path == "" {
		return nil
	}
	whole, err := filepath.Abs(*path)
	*path = whole
	return err
}

func (c *cli) writeRotation(out *format, step string, r *caserver.RotateResponse) error {
	if out.value != "text" {
		return out.encode(c.out, r)
	}
	if r.Refused == nil {
		_, err := fmt.Fprintf(c.out, "%s is done: the rotation is %s, bundle version %d\n", step, r.Phase, r.Bundle)
		return err
	}
	sw := &statusWriter{colours: c.colours(c.out)}
	n := len(r.Refused.Dependents) + r.Refused.More
	fmt.Fprintf(&sw.b, "%s %s would cut off %d:\n", sw.colours.red("REFUSED"), r.Refused.Step, n)
	rows := make([][]string, 0, n)
	for _, d := range r.Refused.Dependents {
		rows = append(rows, []string{d.Kind, printable(d.Name), printable(d.Detail)})
	}
	sw.table(rows)
	if r.Refused.More > 0 {
		fmt.Fprintf(&sw.b, "  and %d more\n", r.Refused.More)
	}
	fmt.Fprintf(&sw.b, "the rotation is %s, bundle version %d\n", r.Phase, r.Bundle)
	_, err := io.WriteString(c.out, sw.b.String())
	return err
}

func (c *cli) caRotateIntermediate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "intermediate --root-key FILE",
		Short: "Make a new intermediate with a root key that is kept offline",
		Long: "With the root's key at hand the intermediate renews by itself. With a root key that init or rotate prepare wrote to a\n" +
			"file, bring that file before the intermediate ends; writ status warns at half of its life. The key is read, used\n" +
			"once, and not kept.",
		Args: cobra.NoArgs,
	}
	where := &whereFlags{}
	where.flags(cmd)
	var request intermediateRequest
	cmd.Flags().StringVar(&request.RootKey, "root-key", "", "the `file` with the root's key")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if request.RootKey == "" {
			return usagef("ca rotate intermediate: where is the root's key? --root-key FILE")
		}
		if err := absolute(&request.RootKey); err != nil {
			return err
		}
		r, err := askAuthority[caserver.StatusResponse](c, cmd, where, "/ca/intermediate", request)
		if err != nil {
			return err
		}
		if out.value != "text" {
			return out.encode(c.out, r)
		}
		_, err = fmt.Fprintln(c.out, "a new intermediate was made")
		return err
	}
	return cmd
}
