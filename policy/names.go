package policy

import "strings"

// searchName looks up a certificate name by the part of it that the dimension files by. The parts are found as the
// patterns of NS, SA and TD would find them, so that no candidate is missed: every place counts, not only the canonical
// one (authorization-policy §1.4).
func (d *dimension) searchName(ix *index, r *Request, best *int32, name string) {
	switch d.kind {
	case dimName:
		d.lookup(ix, r, best, name, true)
	case dimNamespace:
		for rest := name; ; {
			i := strings.Index(rest, "/ns/")
			if i < 0 {
				return
			}
			rest = rest[i+len("/ns"):]
			if end := strings.IndexByte(rest[1:], '/'); end >= 0 {
				if n := d.exact[rest[1:1+end]]; n != nil {
					n.search(ix, r, best)
				}
			}
			if d.prefix != nil { // a pattern that goes on after its first star may span slashes
				d.prefix.search(ix, r, best, rest[1:])
			}
		}
	case dimServiceAccount:
		for rest := name; ; {
			i := strings.Index(rest, "/sa/")
			if i < 0 {
				return
			}
			rest = rest[i+len("/sa"):]
			account, _, _ := strings.Cut(rest[1:], "/")
			d.lookup(ix, r, best, account, true)
		}
	case dimTrustDomain:
		if td, ok := strings.CutPrefix(name, spiffeScheme); ok {
			if domain, _, more := strings.Cut(td, "/"); more {
				d.lookup(ix, r, best, domain, true)
			}
		}
	}
}
