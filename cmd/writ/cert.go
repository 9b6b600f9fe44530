package main

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/policy"
)

const maxCertificates = 64 // of one file

func (c *cli) cert() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cert FILE|-",
		Short: "Explain a certificate or a chain; cert request gets one",
		Long: "cert shows what certificates say, in PEM or DER: the SPIFFE ID, until when they are good, the key, who signed; and what\n" +
			"is wrong with them as SPIFFE X.509 identities. With --bundle it verifies the chain as a peer would.\n\n" +
			"Exit codes: 0 it is a certificate, 2 it does not verify with --bundle, 3 it is none, 5 findings at or above --fail-on.",
		Example: "  writ cert order/cert.pem --bundle root.pem\n  openssl s_client -connect 10.0.0.7:8443 </dev/null | writ cert -",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("cert: which certificate? One file, or - for standard input; writ cert request gets one")
			}
			return nil
		},
	}
	times := &tokenFlags{}
	cmd.Flags().StringVar(&times.time, "time", "", "`time` to look at them at, in RFC 3339 or seconds since 1970; now if not given")
	bundle := cmd.Flags().String("bundle", "", "verify with the roots in this PEM `file`")
	failOn := cmd.Flags().String("fail-on", "never", "exit 5 from this `severity` on: error, warning, info or never")
	out := addOutput(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		least, err := parseFailOn(*failOn)
		if err != nil {
			return err
		}
		now, err := times.now()
		if err != nil {
			return err
		}
		report, err := c.certReport(args[0], *bundle, now().UTC())
		if err != nil {
			return err
		}
		if err := report.write(c, out); err != nil {
			return err
		}
		switch {
		case report.Verified != nil && !*report.Verified:
			return exitWith(exitNo)
		case report.worst() >= least:
			return exitWith(exitFindings)
		}
		return nil
	}
	cmd.AddCommand(c.certRequest())
	return cmd
}

// certReport is the answer of cert.
type certReport struct {
	Time         time.Time     `json:"time"`
	Certificates []certDetails `json:"certificates"`
	Findings     []certFinding `json:"findings"` // about the chain
	Verified     *bool         `json:"verified,omitempty"`
	Why          string        `json:"why,omitempty"` // it does not verify
}

// certDetails is what one certificate says.
type certDetails struct {
	Kind      string        `json:"kind"` // leaf, issuer or root
	SPIFFEID  string        `json:"spiffe_id,omitempty"`
	Subject   string        `json:"subject,omitempty"`
	Issuer    string        `json:"issuer"`
	Serial    string        `json:"serial"`
	NotBefore time.Time     `json:"not_before"`
	NotAfter  time.Time     `json:"not_after"`
	State     string        `json:"state"` // current, expired or not_yet_valid
	Validity  string        `json:"validity"`
	Key       string        `json:"key"`
	KeyHash   string        `json:"key_hash"` // SHA-256 of the SubjectPublicKeyInfo, as ledger and deny list name it
	KeyID     string        `json:"key_id,omitempty"`
	IssuerID  string        `json:"issuer_key_id,omitempty"`
	Signature string        `json:"signature"`
	DNS       []string      `json:"dns,omitempty"`
	IPs       []string      `json:"ips,omitempty"`
	Usages    []string      `json:"usages"`
	Findings  []certFinding `json:"findings"`
}

// certFinding is something wrong, or worth to know.
type certFinding struct {
	Severity policy.Severity `json:"severity"`
	Code     string          `json:"code"`
	Message  string          `json:"message"`
}

func (c *cli) certReport(file, bundle string, now time.Time) (*certReport, error) {
	data, err := c.readFileOrStdin(file, maxPEMBytes)
	if err != nil {
		return nil, err
	}
	chain, err := parseCertificates(data)
	if err != nil {
		return nil, invalidf("%s: %w", file, err)
	}
	r := &certReport{Time: now, Findings: lintChain(chain)}
	for _, cert := range chain {
		r.Certificates = append(r.Certificates, describeCertificate(cert, now))
	}
	if bundle == "" {
		return r, nil
	}
	roots, err := readBounded(bundle, maxPEMBytes)
	if err != nil {
		return nil, fmt.Errorf("--bundle: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(roots) {
		return nil, invalidf("--bundle: %s holds no PEM certificate", bundle)
	}
	verified := true
	if err := verifyChain(chain, pool, now); err != nil {
		verified, r.Why = false, err.Error()
	}
	r.Verified = &verified
	return r, nil
}

// parseCertificates reads PEM, whatever is around the certificates, or the DER of one.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	others := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			others++
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(chain)+1, err)
		}
		if chain = append(chain, cert); len(chain) > maxCertificates {
			return nil, fmt.Errorf("more than %d certificates", maxCertificates)
		}
	}
	switch {
	case len(chain) > 0:
		return chain, nil
	case others > 0:
		return nil, errors.New("no certificate: it holds PEM of another type")
	}
	cert, err := x509.ParseCertificate(data)
	if err != nil {
		return nil, errors.New("no certificate, neither in PEM nor in DER")
	}
	return []*x509.Certificate{cert}, nil
}

// verifyChain verifies a leaf, first, with the certificates that came with it.
func verifyChain(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

func describeCertificate(cert *x509.Certificate, now time.Time) certDetails {
	d := certDetails{
		Kind: certKind(cert), Subject: cert.Subject.String(), Issuer: cert.Issuer.String(), Serial: hex.EncodeToString(cert.SerialNumber.Bytes()),
		NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(), State: "current",
		Key: keyName(cert.PublicKey), KeyHash: keyHash(cert), KeyID: hex.EncodeToString(cert.SubjectKeyId), IssuerID: hex.EncodeToString(cert.AuthorityKeyId),
		Signature: cert.SignatureAlgorithm.String(), DNS: cert.DNSNames, Usages: usageNames(cert), Findings: lintCertificate(cert),
	}
	if ids, err := uriNames(cert); err == nil && len(ids) == 1 {
		d.SPIFFEID = ids[0]
	}
	for _, ip := range cert.IPAddresses {
		d.IPs = append(d.IPs, ip.String())
	}
	life := cert.NotAfter.Sub(cert.NotBefore)
	switch {
	case now.Before(cert.NotBefore):
		d.State, d.Validity = "not_yet_valid", "begins "+fromNow(cert.NotBefore, now)
	case now.After(cert.NotAfter):
		d.State, d.Validity = "expired", "ended "+fromNow(cert.NotAfter, now)
	default:
		left := 100 * cert.NotAfter.Sub(now).Seconds() / max(life, 1).Seconds()
		d.Validity = fmt.Sprintf("ends %s, %.0f %% of %s left", fromNow(cert.NotAfter, now), left, spell(life))
	}
	return d
}

// certKind tells roots, which signed themselves, from other issuers and leaves.
func certKind(cert *x509.Certificate) string {
	switch {
	case !cert.IsCA:
		return "leaf"
	case string(cert.RawSubject) == string(cert.RawIssuer):
		return "root"
	default:
		return "issuer"
	}
}

// worst is the highest severity of all findings, below info if there are none.
func (r *certReport) worst() policy.Severity {
	worst := policy.SeverityInfo - 1
	for _, list := range append([][]certFinding{r.Findings}, r.all()...) {
		for _, f := range list {
			worst = max(worst, f.Severity)
		}
	}
	return worst
}

func (r *certReport) all() [][]certFinding {
	out := make([][]certFinding, 0, len(r.Certificates))
	for i := range r.Certificates {
		out = append(out, r.Certificates[i].Findings)
	}
	return out
}

func (r *certReport) write(c *cli, out *format) error {
	if out.value != "text" {
		return out.encode(c.out, r)
	}
	colours := c.colours(c.out)
	var b strings.Builder
	for i := range r.Certificates {
		if i > 0 {
			b.WriteString("\n")
		}
		r.Certificates[i].write(&b, colours)
	}
	if len(r.Findings) > 0 {
		b.WriteString("\n" + colours.bold("chain") + "\n")
		writeFindings(&b, colours, r.Findings)
	}
	switch {
	case r.Verified == nil:
	case *r.Verified:
		b.WriteString("\n" + colours.green("VERIFIED") + " with the bundle\n")
	default:
		b.WriteString("\n" + colours.red("NOT VERIFIED") + " with the bundle: " + printable(r.Why) + "\n")
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}

func (d *certDetails) write(b *strings.Builder, colours palette) {
	name := d.SPIFFEID
	if name == "" || d.Kind != "leaf" {
		name = d.Subject
	}
	if name == "" {
		name = "(no name)"
	}
	fmt.Fprintf(b, "%s  %s\n", colours.bold(d.Kind), printable(name))
	validity := d.Validity
	if d.State != "current" {
		validity = colours.red(validity)
	}
	rows := [][2]string{{"valid", d.NotBefore.Format(time.RFC3339) + " to " + d.NotAfter.Format(time.RFC3339) + ", " + validity}}
	if d.Kind != "leaf" && d.SPIFFEID != "" {
		rows = append(rows, [2]string{"SPIFFE ID", printable(d.SPIFFEID)})
	}
	if names := slices.Concat(d.DNS, d.IPs); len(names) > 0 {
		rows = append(rows, [2]string{"also", printable(strings.Join(names, ", "))})
	}
	signer := printable(d.Issuer)
	switch {
	case d.Kind == "root":
		signer = "itself"
	case d.IssuerID != "":
		signer += ", key id " + d.IssuerID
	}
	rows = append(rows, [2]string{"serial", d.Serial}, [2]string{"key", d.Key + ", sha256 " + d.KeyHash}, [2]string{"key id", d.KeyID},
		[2]string{"signed by", signer + ", " + d.Signature}, [2]string{"for", strings.Join(d.Usages, ", ")})
	for _, row := range rows {
		if row[1] != "" {
			fmt.Fprintf(b, "  %-10s %s\n", row[0], row[1])
		}
	}
	writeFindings(b, colours, d.Findings)
}

func writeFindings(b *strings.Builder, colours palette, list []certFinding) {
	pw := &problemWriter{colours: colours}
	for _, f := range list {
		fmt.Fprintf(b, "  %s %s: %s\n", pw.severity(f.Severity), f.Code, printable(f.Message))
	}
}
