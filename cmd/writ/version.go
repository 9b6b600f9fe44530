package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// buildInfo is what the binary knows about how it was built.
type buildInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"` // of the commit
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func readBuildInfo() buildInfo {
	b := buildInfo{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (c *cli) version() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Say which build this is", Args: cobra.NoArgs}
	out := addOutput(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		b := readBuildInfo()
		if out.value != "text" {
			return out.encode(c.out, b)
		}
		line := "writ " + b.Version
		if b.Revision != "" {
			line += " (" + b.Revision[:min(12, len(b.Revision))]
			if b.Modified {
				line += ", modified"
			}
			line += ")"
		}
		_, err := fmt.Fprintf(c.out, "%s, %s, %s\n", line, b.Go, b.Platform)
		return err
	}
	return cmd
}
