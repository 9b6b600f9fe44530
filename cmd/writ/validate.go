package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/policy"
)

// validateReport is the answer of validate.
type validateReport struct {
	Valid     bool             `json:"valid"`
	Config    []configProblem  `json:"config"`
	Documents []policy.Problem `json:"documents"` // errors only: lint lists the rest
	Loaded    int              `json:"loaded"`    // documents read
}

func (c *cli) validate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "validate -c FILE",
		Short: "Check a configuration and the documents it names",
		Long: "validate reads a configuration as serve would, checks all of it, the files and documents it names included, and\n" +
			"starts nothing.\n\nExit codes: 0 valid, 3 invalid, 1 the file cannot be read.",
		Args: cobra.NoArgs,
	}
	out := addOutput(cmd)
	file := cmd.Flags().StringP("config", "c", "", "configuration `file`")
	sets := cmd.Flags().StringArray("set", nil, "override one `key=value`, e.g. authz.listen=127.0.0.1:9191")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *file == "" {
			return usagef("which configuration? writ validate -c writ.yaml")
		}
		if isAgentConfig(*file) {
			return c.validateAgent(*file, *sets, out)
		}
		report, kept, err := c.validateConfig(cmd.Context(), *file, *sets)
		if err != nil {
			return err
		}
		if err := c.writeValidate(out, *file, report, kept); err != nil {
			return err
		}
		if !report.Valid {
			return exitWith(exitInvalid)
		}
		return nil
	}
	return cmd
}

func (c *cli) validateConfig(ctx context.Context, file string, sets []string) (*validateReport, sources, error) {
	report := &validateReport{Config: []configProblem{}, Documents: []policy.Problem{}}
	cfg, err := loadConfig(file, c.env, sets)
	var invalid configError
	if errors.As(err, &invalid) {
		report.Config = invalid
		return report, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var kept sources
	if cfg.Authz != nil {
		kept = c.validateAuthz(ctx, cfg, file, report)
	}
	if cfg.CA != nil {
		for key, err := range cfg.checkCAFiles(ctx, c.env) {
			report.Config = append(report.Config, configProblem{Source: file, Key: key, Message: err.Error()})
		}
	}
	report.Valid = len(report.Config) == 0 && len(report.Documents) == 0
	return report, kept, nil
}

// validateAuthz reads the files that deciding takes.
func (c *cli) validateAuthz(ctx context.Context, cfg *config, file string, report *validateReport) sources {
	if tls := cfg.Authz.TLS; tls != nil {
		if _, err := newCertificates(tls); err != nil {
			report.Config = append(report.Config, configProblem{Source: file, Key: "authz.tls", Message: err.Error()})
		}
	}
	if err := cfg.Authz.JWKS.checkKeyFiles(); err != nil {
		report.Config = append(report.Config, configProblem{Source: file, Key: "authz.jwks", Message: err.Error()})
	}
	for _, err := range cfg.Authz.checkProviderFiles(ctx) {
		report.Config = append(report.Config, configProblem{Source: file, Key: "authz.providers", Message: err.Error()})
	}
	docs, kept, err := c.readDocuments([]string{cfg.Documents})
	if err != nil {
		report.Config = append(report.Config, configProblem{Source: file, Key: "documents", Message: err.Error()})
	} else {
		report.Documents = append(report.Documents, errorsOf(policy.NewSnapshot(docs, cfg.mesh()).Problems())...)
	}
	if problems, err := cfg.candidateProblems(); err != nil {
		report.Config = append(report.Config, configProblem{Source: file, Key: "documents_candidate", Message: err.Error()})
	} else {
		report.Documents = append(report.Documents, errorsOf(problems)...)
	}
	sortProblems(report.Documents)
	report.Loaded = len(docs)
	return kept
}

func (c *cli) writeValidate(out *format, file string, r *validateReport, kept sources) error {
	if out.value != "text" {
		return out.encode(c.out, r)
	}
	for _, p := range r.Config {
		if _, err := fmt.Fprintln(c.out, printable(p.Error())); err != nil {
			return err
		}
	}
	pw := &problemWriter{w: c.out, colours: c.colours(c.out), sources: kept}
	if err := pw.write(r.Documents); err != nil {
		return err
	}
	verdict := "is valid, with " + plural(r.Loaded, "document")
	if !r.Valid {
		verdict = "is invalid: " + plural(len(r.Config)+len(r.Documents), "problem")
	}
	_, err := fmt.Fprintln(c.out, file+" "+verdict)
	return err
}
