package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// SoftHSM is a token of SoftHSM, a PKCS#11 device made of software, in a directory of its own. A program finds it if its
// environment has SOFTHSM2_CONF.
type SoftHSM struct {
	Module string // path of the PKCS#11 module
	Conf   string // for SOFTHSM2_CONF
	Token  string // label of the token
	PIN    string // of its user

	util string
}

// NewSoftHSM makes an empty token in a directory that exists. scripts/softhsm.sh runs a command with all that it needs.
func NewSoftHSM(ctx context.Context, dir string) (*SoftHSM, error) {
	util, err := exec.LookPath("softhsm2-util")
	if err != nil {
		return nil, fmt.Errorf("SoftHSM is not here: run this by scripts/softhsm.sh COMMAND…, or make pkcs11: %w", err)
	}
	module := os.Getenv("SOFTHSM2_MODULE")
	if module == "" {
		return nil, errors.New("SOFTHSM2_MODULE does not name SoftHSM's module: run this by scripts/softhsm.sh COMMAND…, or make pkcs11")
	}
	h := &SoftHSM{Module: module, Conf: filepath.Join(dir, "softhsm2.conf"), Token: "writ", PIN: "1234", util: util}
	conf := "directories.tokendir = " + dir + "\nobjectstore.backend = file\nlog.level = ERROR\n"
	if err := os.WriteFile(h.Conf, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	return h, h.run(ctx, "--init-token", "--free", "--label", h.Token, "--pin", h.PIN, "--so-pin", "123456")
}

// Import puts the private key of a PEM file, in PKCS#8, into the token under a label. IDs are hex and tell keys apart.
func (h *SoftHSM) Import(ctx context.Context, keyFile, label, id string) error {
	return h.run(ctx, "--import", keyFile, "--token", h.Token, "--label", label, "--id", id, "--pin", h.PIN)
}

func (h *SoftHSM) run(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, h.util, args...)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+h.Conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("softhsm2-util %s: %w\n%s", args[0], err, out)
	}
	return nil
}
