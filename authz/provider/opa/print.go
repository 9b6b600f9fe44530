package opa

import (
	"strconv"

	"github.com/open-policy-agent/opa/v1/topdown/print"

	"github.com/writ-auth/writ/authz"
)

// PrintMessage is the message of the log record of a print.
const PrintMessage = "a policy prints"

// maxPrint is how many bytes of one print are logged.
const maxPrint = 1024

// printer writes what policies print to the log, with the decision it is about.
type printer struct {
	provider *Provider
	id       authz.ID
}

// Print implements [print.Hook].
func (p printer) Print(c print.Context, text string) error {
	if len(text) > maxPrint {
		text = text[:maxPrint] + "…"
	}
	at := ""
	if c.Location != nil {
		at = c.Location.File + ":" + strconv.Itoa(c.Location.Row)
	}
	p.provider.config.Logger.Info(PrintMessage, "provider", p.provider.config.Name, "decision_id", p.id.String(), "at", at, "text", text)
	return nil
}
