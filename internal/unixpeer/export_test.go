//go:build linux

package unixpeer

// WithoutHandle makes a peer what it is on kernels that give no handle of a process.
func (p *Peer) WithoutHandle() error {
	err := p.handle.Close()
	p.handle = nil
	if err == nil {
		p.started, err = p.startTime()
	}
	return err
}

// Mistake has a peer remember another start time, as if another process had its number.
func (p *Peer) Mistake() { p.started = "1" }
