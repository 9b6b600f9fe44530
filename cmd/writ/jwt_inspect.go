package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

func (c *cli) jwtInspect() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect FILE|-",
		Short: "Show what a token says, without verifying it",
		Long: "inspect takes a token apart and shows its header, claims and times. It verifies NOTHING: whoever wrote the token may\n" +
			"have made all of it up. The signature is not shown, so that the answer is no token.\n\n" +
			"Exit codes: 0 it is a token, 3 it is none.",
		Example: "  writ jwt inspect token.jwt\n  writ jwt inspect - --time 2026-08-01T12:00:00Z <token.jwt",
		Args:    oneToken,
	}
	times := &tokenFlags{}
	cmd.Flags().StringVar(&times.time, "time", "", "`time` to compare the token's with, in RFC 3339 or seconds since 1970; now if not given")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		now, err := times.now()
		if err != nil {
			return err
		}
		token, err := c.readToken("token", args[0])
		if err != nil {
			return err
		}
		report, err := inspect(cmd.Context(), token, now().UTC())
		if err != nil {
			return invalidf("%s: %w", args[0], err)
		}
		if out.value != "text" {
			return out.encode(c.out, report)
		}
		return report.write(c.out, c.colours(c.out))
	}
	return cmd
}

// inspectReport is what a token says of itself.
type inspectReport struct {
	Verified       bool           `json:"verified"` // always false
	Header         map[string]any `json:"header"`
	Claims         map[string]any `json:"claims"`
	Time           time.Time      `json:"time"`
	Times          []tokenTime    `json:"times,omitempty"`
	State          string         `json:"state"`             // by its times alone: current, expired or not_yet_valid
	Refused        string         `json:"refused,omitempty"` // the reason for which no rule would take it, whatever its keys
	Bytes          int            `json:"bytes"`
	SignatureBytes int            `json:"signature_bytes"`
}

// tokenTime is a time of a token.
type tokenTime struct {
	Claim string    `json:"claim"` // iat, nbf or exp
	At    time.Time `json:"at"`
	Words string    `json:"words"` // from Time on
}

// inspect takes a token apart. No error quotes it.
func inspect(ctx context.Context, token string, now time.Time) (*inspectReport, error) {
	segments := strings.Split(token, ".")
	if len(segments) != 3 {
		what := ""
		if len(segments) == 5 {
			what = "; five are an encrypted token, which nobody takes for authentication here"
		}
		return nil, fmt.Errorf("%s: a token has three, joined by dots%s", plural(len(segments), "segment"), what)
	}
	r := &inspectReport{Time: now, Bytes: len(token), State: "current"}
	var err error
	if r.Header, err = jsonSegment(segments[0]); err != nil {
		return nil, fmt.Errorf("the header is %w", err)
	}
	if r.Claims, err = jsonSegment(segments[1]); err != nil {
		return nil, fmt.Errorf("the payload is %w", err)
	}
	signature, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(segments[2], "="))
	if err != nil {
		return nil, errors.New("the signature is not base64url")
	}
	r.SignatureBytes = len(signature)
	for _, claim := range []string{"iat", "nbf", "exp"} {
		if at, ok := timeOf(r.Claims[claim]); ok {
			r.Times = append(r.Times, tokenTime{claim, at, fromNow(at, now)})
		}
	}
	r.judge(ctx, token)
	return r, nil
}

// judge asks a rule for any issuer, without keys: what it refuses for another reason than its keys, every rule refuses.
func (r *inspectReport) judge(ctx context.Context, token string) {
	var tokens authz.Tokens
	anyIssuer := policy.JWTRule{Spec: &securityv1beta1.JWTRule{JwksUri: "https://keys.invalid"}}
	verdict := tokens.Validator(&policy.Authentication{Rules: []policy.JWTRule{anyIssuer}}).Verify(ctx, token, r.Time)[0]
	switch verdict.Reason {
	case jwt.KeysUnavailable:
	case jwt.Expired, jwt.NotYetValid:
		r.State = verdict.Reason.String()
	default:
		r.Refused = verdict.Reason.String()
	}
}

func jsonSegment(segment string) (map[string]any, error) {
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(segment, "="))
	if err != nil {
		return nil, errors.New("not base64url")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil || object == nil {
		return nil, errors.New("not a JSON object")
	}
	if d.More() {
		return nil, errors.New("followed by more than a JSON object")
	}
	return object, nil
}

// timeOf reads seconds since 1970.
func timeOf(claim any) (time.Time, bool) {
	number, ok := claim.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	seconds, err := number.Float64()
	if err != nil || seconds < 0 || seconds > maxUnixTime {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0).UTC(), true
}

func (r *inspectReport) write(w io.Writer, colours palette) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  anybody can write what follows: writ jwt verify says whether it is true\n", colours.bold(colours.red("NOT VERIFIED")))
	writeMembers(&b, colours, "header", r.Header)
	writeMembers(&b, colours, "claims", r.Claims)
	fmt.Fprintf(&b, "\n%s %s\n", colours.bold("times"), colours.dim("at "+r.Time.Format(time.RFC3339)))
	words := map[string]string{"iat": "issued", "nbf": "not before", "exp": "expires"}
	for _, t := range r.Times {
		fmt.Fprintf(&b, "  %-10s %s  %s\n", words[t.Claim], t.At.Format(time.RFC3339), t.Words)
	}
	switch {
	case r.State != "current":
		fmt.Fprintf(&b, "  %s\n", colours.yellow(strings.ReplaceAll(r.State, "_", " ")+", with the minute that clocks may differ by"))
	case r.Claims["exp"] == nil:
		fmt.Fprintf(&b, "  %s\n", colours.yellow("it never expires"))
	}
	if r.Refused != "" {
		fmt.Fprintf(&b, "\n%s\n", colours.red("every rule refuses it: "+strings.ReplaceAll(r.Refused, "_", " ")))
	}
	fmt.Fprintf(&b, "\n%s\n", colours.dim(fmt.Sprintf("%d bytes; the signature of %d is not shown", r.Bytes, r.SignatureBytes)))
	_, err := io.WriteString(w, b.String())
	return err
}

// maxShownValue bounds a claim in text, in characters.
const maxShownValue = 400

func writeMembers(b *strings.Builder, colours palette, heading string, members map[string]any) {
	fmt.Fprintf(b, "\n%s\n", colours.bold(heading))
	for _, name := range slices.Sorted(maps.Keys(members)) {
		var value bytes.Buffer
		e := json.NewEncoder(&value)
		e.SetEscapeHTML(false)
		_ = e.Encode(members[name]) // it was decoded from JSON
		text := []rune(printable(strings.TrimSpace(value.String())))
		if len(text) > maxShownValue {
			text = append(text[:maxShownValue], '…')
		}
		fmt.Fprintf(b, "  %-10s %s\n", printable(name), withoutTokens(string(text)))
	}
}
