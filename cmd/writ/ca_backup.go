package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/ca/store"
)

// oneFile is what backup and restore take.
func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef("ca %s: which file? writ ca %s -c writ.yaml FILE", cmd.Name(), cmd.Name())
	}
	return nil
}

func (c *cli) caBackup() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the whole state to one new file, while the authority runs",
		Long: "backup copies ledger, keys, tokens and revocations as they are at one moment. The file is written by the authority\n" +
			"itself, mode 0600, verified and synced before it gets its name. Keys in it are encrypted as they are in the state:\n" +
			"keep the passphrase elsewhere.",
		Example: "  writ ca backup -c writ.yaml /var/backups/writ-$(date +%F).db",
		Args:    oneFile,
	}
	where := &whereFlags{}
	where.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := backupRequest{Path: args[0]}
		if err := absolute(&request.Path); err != nil {
			return err
		}
		return c.withControl(cmd, where, func(ctx context.Context, o *control) error {
			var r backupResponse
			if err := o.post(ctx, "/ca/backup", request, &r); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.out, "backup written and verified: %s\n", printable(r.Path))
			return err
		})
	}
	return cmd
}

func (c *cli) caRestore() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore -c FILE BACKUP",
		Short: "Put a backup in place of the state, while the authority is stopped",
		Long: "restore verifies a backup and makes it the state. What was issued and revoked after the backup is forgotten: revoke\n" +
			"again what has to be. A ledger that is there is refused; with --replace it is kept beside the restored one. A database\n" +
			"has to be empty.",
		Args: oneFile,
	}
	file := cmd.Flags().StringP("config", "c", "", "configuration `file` of the authority")
	replace := cmd.Flags().Bool("replace", false, "set a ledger that is there aside")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *file == "" {
			return usagef("ca restore: into which authority? -c writ.yaml")
		}
		cfg, err := c.caConfig(*file)
		if err != nil {
			return err
		}
		if err := restoreState(cmd.Context(), cfg, args[0], *replace); err != nil {
			return notRunning(cfg, err)
		}
		_, err = fmt.Fprintf(c.out, "restored from %s: verified, and noted in the ledger\n", printable(args[0]))
		return err
	}
	return cmd
}

func restoreState(ctx context.Context, cfg *config, backup string, replace bool) error {
	log := slog.New(slog.DiscardHandler)
	p := cfg.postgres()
	if p == nil {
		return store.RestoreSQLite(ctx, backup, store.SQLiteConfig{Path: cfg.ledger(), Logger: log}, replace)
	}
	dsn, err := readSecret("store.postgres.dsn_file", p.DSNFile)
	if err != nil {
		return err
	}
	return store.RestorePostgres(ctx, backup, store.PostgresConfig{DSN: dsn, Logger: log})
}

func (c *cli) caVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check the whole ledger: the hash chain, and every table against it",
		Long: "verify walks the chain from the first record to the last and compares every table with it. It takes a while for a\n" +
			"long ledger, and the authority goes on meanwhile.\n\nExit codes: 0 it holds, 2 it is broken, 1 it cannot be read.",
		Args: cobra.NoArgs,
	}
	where := &whereFlags{}
	where.flags(cmd)
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.withControl(cmd, where, func(ctx context.Context, o *control) error {
			var r caserver.VerifyResponse
			if err := o.post(ctx, "/ca/verify", struct{}{}, &r); err != nil {
				return err
			}
			if err := c.writeVerified(out, &r); err != nil {
				return err
			}
			if r.Broken != "" {
				return exitWith(exitNo)
			}
			return nil
		})
	}
	return cmd
}

func (c *cli) writeVerified(out *format, r *caserver.VerifyResponse) error {
	if out.value != "text" {
		return out.encode(c.out, r)
	}
	colours := c.colours(c.out)
	if r.Broken != "" {
		_, err := fmt.Fprintf(c.out, "%s %s\n", colours.red("BROKEN"), printable(r.Broken))
		return err
	}
	_, err := fmt.Fprintf(c.out, "%s the chain of %s and all tables\n", colours.green("VERIFIED"), plural(int(r.Records), "record"))
	return err
}

// refusedInit tells a state that refuses a new authority from a failure.
func refusedInit(err error) error {
	if errors.Is(err, ca.ErrInitialised) || errors.Is(err, ca.ErrStateLost) {
		return &exitError{code: exitNo, err: err}
	}
	return err
}
