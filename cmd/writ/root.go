package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// cli is what the commands share: where they read and write, and the environment they may look at.
type cli struct {
	in  io.Reader
	out io.Writer // the answer
	err io.Writer // the commentary
	env func(string) (string, bool)

	environ []string // all of the environment, to find misspelt names in
	release func()   // has signals end the process as they do without us; nil in tests
}

// before readies a command. Those that hold something end by themselves when they are told to; the rest hold nothing, and
// end at once, however long they would still have read or computed.
func (c *cli) before(cmd *cobra.Command, args []string) error {
	if c.release != nil && !slices.Contains([]string{"serve", "agent", "test"}, cmd.Name()) {
		c.release()
	}
	return c.flagsFromEnv(cmd, args)
}

// execute runs one command line and returns the exit code.
func (c *cli) execute(ctx context.Context, args []string) int {
	root := c.root()
	root.SetArgs(args)
	code, message := exitCode(root.ExecuteContext(ctx))
	if message != "" {
		_, _ = fmt.Fprintln(c.err, "writ: "+message)
	}
	return code
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "writ",
		Short: "Authorization for Envoy, as Istio's policies say, and the certificates it rests on",
		Long: "writ decides which request may reach which workload, as Istio's AuthorizationPolicy says, behind Envoy's\n" +
			"ext_authz, and issues the SPIFFE certificates that workloads are known by. The same binary tries, explains and\n" +
			"checks policies offline.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              unknownCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: c.before,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(helpCommand(root))
	root.AddCommand(c.serve(), c.agent(), c.check(), c.explain(), c.lint(), c.test(), c.replay(), c.diff(), c.jwt(), c.ca(), c.token(), c.cert(), c.envoy(), c.status(), c.validate(), c.version(), c.completion())
	argumentsAsUsage(root.Commands())
	return root
}

// argumentsAsUsage makes wrong arguments, of whatever command, a command line that cannot be meant.
func argumentsAsUsage(commands []*cobra.Command) {
	for _, cmd := range commands {
		if args := cmd.Args; args != nil {
			cmd.Args = func(cmd *cobra.Command, given []string) error { return asUsage(cmd, args(cmd, given)) }
		}
		argumentsAsUsage(cmd.Commands())
	}
}

// helpCommand replaces cobra's, which prints the usage of the root and exits 0 when the topic is unknown.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show how a command is used",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 && cmd == root {
				return unknownCommand(root, args)
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

func unknownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, cmd := range root.Commands() {
		names = append(names, cmd.Name())
	}
	return usagef("unknown command %q%s (writ help lists all)", args[0], didYouMean(args[0], names))
}

func flagError(cmd *cobra.Command, err error) error {
	var missing *pflag.NotExistError
	if errors.As(err, &missing) && missing.GetSpecifiedShortnames() == "" {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
		err = fmt.Errorf("%w%s", err, didYouMean("--"+missing.GetSpecifiedName(), names))
	}
	return asUsage(cmd, err)
}

func asUsage(cmd *cobra.Command, err error) error {
	var e *exitError
	if err == nil || errors.As(err, &e) {
		return err
	}
	return usagef("%s: %w (writ help %s)", cmd.Name(), err, cmd.Name())
}

// envOf names the environment variable of a flag or a config key: trust_domain is WRIT_TRUST_DOMAIN.
func envOf(name string) string {
	return "WRIT_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(name))
}

// flagsOfEnv are the flags that the environment can set as well.
func flagsOfEnv() []string { return []string{"config", "admin", "output"} }

// flagsFromEnv sets flags from the environment, unless the command line did.
func (c *cli) flagsFromEnv(cmd *cobra.Command, _ []string) error {
	for _, name := range flagsOfEnv() {
		f := cmd.Flags().Lookup(name)
		if f == nil || f.Changed {
			continue
		}
		if v, ok := c.env(envOf(name)); ok && v != "" {
			if err := cmd.Flags().Set(name, v); err != nil {
				return usagef("%s=%q: %w", envOf(name), v, err)
			}
		}
	}
	return nil
}
