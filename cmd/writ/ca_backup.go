package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

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
		r, err := askAuthority[backupResponse](c, cmd, where, "/ca/backup", request)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "backup written and verified: %s\n", printable(r.Path))
		return err
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
		if _, err := os.Lstat(cfg.ledger()); err == nil && !replace {
			return fmt.Errorf("%s: there is a ledger already: --replace sets it aside, once the authority is stopped", cfg.ledger())
		}
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
		Short: "Check the whole ledger, or a backup: the hash chain, and every table against it",
		Long: "verify walks the chain from the first record to the last and compares every table with it. It takes a while for a\n" +
			"long ledger, and the authority goes on meanwhile. With --file it checks a backup where it is, without an authority and\n" +
			"without changing it, as restore would.\n\nExit codes: 0 it holds, 2 it is broken, 1 it cannot be read.",
		Example: "  writ ca verify -c writ.yaml\n  writ ca verify --file /var/backups/writ-2026-08-01.db",
		Args:    cobra.NoArgs,
	}
	where := &whereFlags{}
	where.flags(cmd)
	file := cmd.Flags().String("file", "", "check this `backup` instead of an authority's ledger")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := c.verifyLedger(cmd, where, *file)
		if err != nil {
			return err
		}
		if err := c.writeVerified(out, &r); err != nil {
			return err
		}
		if r.Broken != "" {
			return exitWith(exitNo)
		}
		return nil
	}
	return cmd
}

// verified is the answer of verify.
type verified struct {
	caserver.VerifyResponse
	Backup *backupContents `json:"backup,omitempty"` // what is in a backup that holds
}

// backupContents tells one backup from another.
type backupContents struct {
	Certificates int64     `json:"certificates"`
	Revocations  int64     `json:"revocations"`
	Tokens       int64     `json:"tokens"` // join tokens that nobody has used yet
	Last         time.Time `json:"last"`   // when the last record was made
	Head         string    `json:"head"`   // hash of the last record
}

func (c *cli) verifyLedger(cmd *cobra.Command, where *whereFlags, file string) (verified, error) {
	if file == "" {
		r, err := askAuthority[caserver.VerifyResponse](c, cmd, where, "/ca/verify", struct{}{})
		return verified{VerifyResponse: r}, err
	}
	if _, err := os.Stat(file); err != nil {
		return verified{}, fmt.Errorf("ca verify: --file: %w", err)
	}
	found, err := store.VerifyBackup(cmd.Context(), file)
	switch {
	case cmd.Context().Err() != nil:
		return verified{}, cmd.Context().Err()
	case err != nil:
		return verified{VerifyResponse: caserver.VerifyResponse{Records: found.Records, Broken: err.Error()}}, nil
	}
	return verified{caserver.VerifyResponse{Records: found.Records}, &backupContents{
		Certificates: found.Certificates, Revocations: found.Revocations, Tokens: found.Tokens,
		Last: found.Last.UTC(), Head: hex.EncodeToString(found.Head[:]),
	}}, nil
}

func (c *cli) writeVerified(out *format, r *verified) error {
	if out.value != "text" {
		return out.encode(c.out, r)
	}
	colours := c.colours(c.out)
	if r.Broken != "" {
		_, err := fmt.Fprintf(c.out, "%s %s\n", colours.red("BROKEN"), printable(r.Broken))
		return err
	}
	_, err := fmt.Fprintf(c.out, "%s the chain of %s and all tables\n", colours.green("VERIFIED"), plural(int(r.Records), "record"))
	if b := r.Backup; b != nil && err == nil {
		_, err = fmt.Fprintf(c.out, "  %s, %s, %s; the last record is of %s\n", plural(int(b.Certificates), "certificate"),
			plural(int(b.Revocations), "revocation"), plural(int(b.Tokens), "unused token"), b.Last.Format(time.RFC3339))
	}
	return err
}

// refusedInit tells a state that refuses a new authority from a failure.
func refusedInit(err error) error {
	if errors.Is(err, ca.ErrInitialised) || errors.Is(err, ca.ErrStateLost) {
		return &exitError{code: exitNo, err: err}
	}
	return err
}
