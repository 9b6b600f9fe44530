package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// proof is one way to show an authority who asks.
type proof struct {
	name string // for logs
	own  *held  // nil for a token
	// token is sent as a bearer token; empty for a certificate.
	token string
	join  bool // the token is good for one key
}

// proofs lists the ways for the agent's own certificate, in the order in which they are tried. A join token that was not
// used yet comes first: whoever put it there wants it used, be it that the certificate has lapsed or that the node is to
// have other identities. A certificate that has ended comes last: the authority may know it still (its grace).
func (a *Agent) proofs(now time.Time) ([]proof, error) {
	a.mu.Lock()
	own, used := a.own.now, a.usedToken
	a.mu.Unlock()
	var list []proof
	var problems []error
	join, err := readToken(a.cfg.JoinTokenFile)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		problems = append(problems, fmt.Errorf("join token: %w", err))
	case join != "" && hashOf([]byte(join)) != used:
		list = append(list, proof{name: "the join token", token: join, join: true})
	case own == nil && join != "":
		problems = append(problems, fmt.Errorf("the join token in %s was used before: each is good once: make another (writ token create) and put it there", a.cfg.JoinTokenFile))
	case own == nil && a.cfg.JoinTokenFile != "":
		problems = append(problems, fmt.Errorf("there is no join token in %s: make one (writ token create) and put it there", a.cfg.JoinTokenFile))
	}
	if own != nil && !own.endsBefore(now) {
		list = append(list, proof{name: "the agent's certificate", own: own})
	}
	if a.cfg.TokenFile != "" {
		token, err := readToken(a.cfg.TokenFile)
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("service account token: %w", err))
		case token == "":
			problems = append(problems, fmt.Errorf("service account token: %s is empty", a.cfg.TokenFile))
		default:
			list = append(list, proof{name: "the service account token", token: token})
		}
	}
	if own != nil && own.endsBefore(now) {
		list = append(list, proof{name: "the agent's certificate, which ended at " + stamp(own.notAfter()), own: own})
	}
	if len(list) == 0 && len(problems) == 0 {
		problems = append(problems, errors.New("there is neither a certificate nor a token: configure attest.join_token_file"))
	}
	return list, errors.Join(problems...)
}

// readToken reads a token without the white space around it; an empty path is no token.
func readToken(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	data, err := readSmall(path)
	if err != nil {
		return "", err
	}
	token := bytes.TrimSpace(data)
	if bytes.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s: holds more than one word: want a token alone", path)
	}
	return string(token), nil
}

// sent remembers that an authority took the join token, or does not know it: either way it is not sent again.
func (a *Agent) sent(p proof) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.usedToken = hashOf([]byte(p.token))
}

// removeToken removes the file of a join token that is used up. Where it cannot be removed, which is common of mounted
// secrets, it is ignored from now on.
func (a *Agent) removeToken(p proof) {
	if now, err := readToken(a.cfg.JoinTokenFile); err != nil || now != p.token {
		return // replaced meanwhile
	}
	if err := os.Remove(a.cfg.JoinTokenFile); err != nil {
		a.log.Info("the join token is used up, and its file cannot be removed: it is ignored", "file", a.cfg.JoinTokenFile, "error", err)
		return
	}
	a.log.Info("the join token is used up, its file was removed", "file", a.cfg.JoinTokenFile)
}
