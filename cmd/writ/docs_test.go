package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestCommandDocs holds docs/cli.md to the commands and flags there are, and to no others.
func TestCommandDocs(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	known := []string{"help"}
	for _, cmd := range commandsBelow((&cli{}).root()) {
		if cmd.Name() == "help" {
			continue
		}
		if !strings.Contains(text, "`"+cmd.CommandPath()) {
			t.Errorf("docs/cli.md does not mention %s", cmd.CommandPath())
		}
		checkHelp(t, cmd)
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			known = append(known, f.Name)
			if f.Name != "output" && !strings.Contains(text, "--"+f.Name) {
				t.Errorf("docs/cli.md does not mention --%s of %s", f.Name, cmd.Name())
			}
		})
	}
	for _, m := range regexp.MustCompile("[` ]--([a-z-]+)").FindAllStringSubmatch(text, -1) {
		if !slices.Contains(known, m[1]) {
			t.Errorf("docs/cli.md mentions --%s, which no command has", m[1])
		}
	}
}

// commandsBelow lists the commands of a command, and theirs.
func commandsBelow(parent *cobra.Command) []*cobra.Command {
	var all []*cobra.Command
	for _, cmd := range parent.Commands() {
		all = append(append(all, cmd), commandsBelow(cmd)...)
	}
	return all
}

// checkHelp demands that a command says what it does and that every flag is explained.
func checkHelp(t *testing.T, cmd *cobra.Command) {
	t.Helper()
	if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
		t.Errorf("%s: short help %q", cmd.Name(), cmd.Short)
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Usage == "" {
			t.Errorf("%s: --%s has no help", cmd.Name(), f.Name)
		}
	})
}
