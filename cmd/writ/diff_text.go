package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// diffWriter writes a report for people.
type diffWriter struct {
	w       io.Writer
	colours palette
	docs    [2][]*policy.Document // old and new
	err     error
}

func (w *diffWriter) printf(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.w, format, args...)
	}
}

func (w *diffWriter) write(r *diffReport) error {
	for i := range r.Differences {
		w.difference(&r.Differences[i])
	}
	for _, u := range r.Unknown {
		traffic := ""
		if u.Traffic != "" {
			traffic = ", " + u.Traffic
		}
		w.printf("%s  %s%s\n  %s\n\n", w.colours.yellow("UNKNOWN "), printable(whom(u.Workloads)), traffic, printable(u.Reason))
	}
	w.printf("%s\n", diffSummary(r))
	return w.err
}

func (w *diffWriter) difference(d *diffEntry) {
	w.printf("%s  %s, %s\n", w.kind(d.Kind), printable(whom(d.Workloads)), strings.Join(d.Traffic, " and "))
	w.printf("  was      %s\n", printable(w.outcome(0, &d.Old)))
	w.printf("  is       %s\n", printable(w.outcome(1, &d.New)))
	example := exampleOf(&d.Witness.Request)
	if len(d.Workloads) > 1 {
		example += ", to " + d.Witness.Workload.String()
	}
	w.printf("  example  %s\n", printable(example))
	if d.Curl != "" {
		w.printf("  curl     %s\n", printable(d.Curl))
	}
	w.printf("\n")
}

func (w *diffWriter) kind(k analysis.Kind) string {
	text := fmt.Sprintf("%-8s", k)
	switch k {
	case analysis.Widened, analysis.Changed:
		return w.colours.red(text)
	case analysis.Narrowed:
		return w.colours.yellow(text)
	default:
		return w.colours.dim(text)
	}
}

// whom names classes of workloads, the first few of many.
func whom(workloads []analysis.Workload) string {
	const most = 3
	var names []string
	for i, w := range workloads {
		if i == most && len(workloads) > most+1 {
			return strings.Join(names, "; ") + fmt.Sprintf(" and %d more", len(workloads)-most)
		}
		names = append(names, w.String())
	}
	return strings.Join(names, "; ")
}

// outcome is a decision with the place of the rule it rests on.
func (w *diffWriter) outcome(side int, o *analysis.Outcome) string {
	text := fmt.Sprintf("%s: %s", o.What(), o.By())
	if o.Rule == nil {
		return text
	}
	for _, doc := range w.docs[side] {
		if doc.Kind == policy.KindAuthorizationPolicy && doc.Namespace+"/"+doc.Name == o.Policy {
			line, _ := doc.Locator().Position("spec.rules[" + strconv.Itoa(*o.Rule) + "]")
			return fmt.Sprintf("%s (%s:%d)", text, doc.File, line)
		}
	}
	return text
}

// exampleOf is a request in words; what does not matter is left out.
func exampleOf(r *analysis.Request) string {
	parts := []string{strings.TrimSpace(r.Method + " " + r.Path)}
	if r.TCP {
		parts[0] = "TCP connection"
	}
	if r.Host != "" {
		parts[0] += " at " + r.Host
	}
	if r.Port != 0 {
		parts[0] += fmt.Sprintf(" on port %d", r.Port)
	}
	if r.From == "" {
		parts[0] += " without a certificate"
	} else {
		parts[0] += " from " + r.From
	}
	remote := r.RemoteIP
	if r.TCP { // the same
		remote = ""
	}
	for _, a := range []struct{ name, value string }{
		{"source.ip", r.SourceIP}, {"remote.ip", remote}, {"destination.ip", r.DestinationIP}, {"SNI", r.SNI},
	} {
		if a.value != "" {
			parts = append(parts, a.name+" "+a.value)
		}
	}
	for _, name := range sortedNames(r.Headers) {
		parts = append(parts, fmt.Sprintf("header %s: %s", name, r.Headers[name]))
	}
	if r.Claims != nil {
		parts = append(parts, "token "+compactJSON(r.Claims))
	}
	if r.Metadata != nil {
		parts = append(parts, "metadata "+compactJSON(r.Metadata))
	}
	return strings.Join(parts, ", ")
}

func diffSummary(r *diffReport) string {
	compared := strconv.Itoa(r.Workloads) + " classes of workloads compared"
	if r.Workloads == 1 {
		compared = "1 class of workloads compared"
	}
	var parts []string
	for _, kind := range []analysis.Kind{analysis.Widened, analysis.Changed, analysis.Narrowed, analysis.Reason} {
		if n := r.Counts[kind]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, kind))
		}
	}
	if len(r.Unknown) > 0 {
		parts = append(parts, fmt.Sprintf("%d UNKNOWN", len(r.Unknown)))
	}
	if len(parts) == 0 {
		return compared + ": no difference"
	}
	return compared + ": " + strings.Join(parts, ", ")
}

// curlOf is the request as a curl command. What only a certificate, a token or the network can say is a variable or left
// to whoever runs it: the commands are read before they are run.
func curlOf(r *analysis.Request, hops int) string {
	if r.TCP {
		return "# a TCP connection is nothing that curl makes"
	}
	scheme, host := "http", r.Host
	args := []string{"curl -sS -o /dev/null -w '%{http_code}\\n' --path-as-is --globoff"}
	if r.From != "" {
		scheme = "https"
		args = append(args, `--cert "$CERT" --key "$KEY" --cacert "$CA"`)
	}
	if r.Method != "GET" {
		args = append(args, "-X "+shellQuote(r.Method))
	}
	if host != "" {
		args = append(args, "-H "+shellQuote("host: "+host))
	}
	for _, name := range sortedNames(r.Headers) {
		header := name + ": " + r.Headers[name]
		if r.Headers[name] == "" {
			header = name + ";" // how curl sends an empty one
		}
		args = append(args, "-H "+shellQuote(header))
	}
	if r.RemoteIP != "" {
		args = append(args, "-H "+shellQuote("x-forwarded-for: "+forwardedFor(r.RemoteIP, hops)))
	}
	if r.Claims != nil {
		args = append(args, `-H "authorization: Bearer $TOKEN"`)
	}
	port := "$PORT"
	if r.Port != 0 {
		port = strconv.Itoa(int(r.Port))
	}
	if r.SNI != "" { // curl sends the name in the URL
		args = append(args, fmt.Sprintf(`--connect-to "::$ADDRESS:%s" %s`, port, shellQuote("https://"+r.SNI+r.Path)))
	} else {
		args = append(args, fmt.Sprintf(`"%s://$ADDRESS:%s"%s`, scheme, port, shellQuote(r.Path)))
	}
	return strings.Join(args, " ")
}

// shellQuote makes one word of a text for a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func sortedNames(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
