package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"
)

// format is the value of -o. It accepts the formats its command knows and no other.
type format struct {
	value string
	known []string
}

// addOutput declares -o on cmd. The first format is text; json and yaml are always known.
func addOutput(cmd *cobra.Command, more ...string) *format {
	f := &format{value: "text", known: append([]string{"text", "json", "yaml"}, more...)}
	cmd.Flags().VarP(f, "output", "o", "output `format`: "+strings.Join(f.known, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return f.known, cobra.ShellCompDirectiveNoFileComp
	})
	return f
}

func (f *format) String() string { return f.value }
func (f *format) Type() string   { return "string" }

// Set is called by the flag parser.
func (f *format) Set(v string) error {
	if !slices.Contains(f.known, v) {
		return fmt.Errorf("want %s%s", strings.Join(f.known, ", "), didYouMean(v, f.known))
	}
	f.value = v
	return nil
}

// encode writes v as one JSON or YAML document. Both have the field names of v's JSON tags.
func (f *format) encode(w io.Writer, v any) error {
	if f.value == "yaml" {
		return encodeYAML(w, v)
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// encodeLine writes v as one of many: a line of JSON, or a YAML document of a stream.
func (f *format) encodeLine(w io.Writer, v any) error {
	if f.value == "yaml" {
		if _, err := io.WriteString(w, "---\n"); err != nil {
			return err
		}
		return encodeYAML(w, v)
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// encodeYAML goes through JSON so that one set of tags names the fields, and keeps their order.
func encodeYAML(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var n yaml.Node
	if err := yaml.Load(data, &n); err != nil {
		return err
	}
	blockStyle(&n)
	out, err := yaml.Dump(&n)
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

// blockStyle removes JSON's braces and quotes: the encoder puts back the quotes that a string needs.
func blockStyle(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// palette writes words in colour, or plainly.
type palette struct{ on bool }

// colours is the palette for w: colour for people at a terminal who did not say NO_COLOR (no-color.org).
func (c *cli) colours(w io.Writer) palette {
	if v, ok := c.env("NO_COLOR"); ok && v != "" {
		return palette{}
	}
	if v, _ := c.env("TERM"); v == "dumb" {
		return palette{}
	}
	f, ok := w.(*os.File)
	if !ok {
		return palette{}
	}
	info, err := f.Stat()
	return palette{on: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (p palette) paint(code, s string) string {
	if !p.on || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p palette) bold(s string) string   { return p.paint("1", s) }
func (p palette) dim(s string) string    { return p.paint("2", s) }
func (p palette) red(s string) string    { return p.paint("31", s) }
func (p palette) green(s string) string  { return p.paint("32", s) }
func (p palette) yellow(s string) string { return p.paint("33", s) }
func (p palette) cyan(s string) string   { return p.paint("36", s) }

// printable keeps what a request or a document says from steering the terminal: control and other unprintable
// characters are written as Go escapes.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !strconv.IsPrint(r) || r == utf8.RuneError }) < 0 {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}
