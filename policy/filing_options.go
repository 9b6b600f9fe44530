package policy

import "strings"

// ruleOptions lists the ways to file a rule. A lone source (or operation) is a conjunction, so each of its conditions
// will do; of several, each must be filed by one of its own, together.
func (f *filing) ruleOptions(b *ruleBody) []option {
	var out []option
	for _, group := range [][]clause{b.from, b.to, {b.when}} {
		if len(group) == 1 {
			for i := range group[0] {
				out = append(out, f.conditionOptions(&group[0][i])...)
			}
			continue
		}
		if o := f.groupOption(group); o != nil {
			out = append(out, o)
		}
	}
	return out[:min(len(out), maxOptions)]
}

// groupOption files a rule of several alternative clauses under all of them, each by its most telling condition.
func (f *filing) groupOption(group []clause) option {
	var all option
	for _, c := range group {
		var best option
		for i := range c {
			for _, o := range f.conditionOptions(&c[i]) {
				if best == nil || f.rank(o) < f.rank(best) {
					best = o
				}
			}
		}
		if best == nil {
			return nil
		}
		all = append(all, best...)
	}
	return all
}

// rank orders options when nothing is known of how common their keys are: exact before pattern, names before methods.
func (f *filing) rank(o option) int {
	worst := 0
	for _, id := range o {
		k := &f.keys[id]
		worst = max(worst, int(k.how)<<8|int(k.kind))
	}
	return worst
}

// conditionOptions lists the ways to file by one condition: its values, when each of them can be looked up.
func (f *filing) conditionOptions(c *condition) []option {
	var out []option
	if o := f.valuesOption(c, f.key); o != nil {
		out = append(out, o)
	}
	if o := f.valuesOption(c, f.secondKey); o != nil {
		out = append(out, o)
	}
	return out
}

func (f *filing) valuesOption(c *condition, key func(*attribute, *matcher) (fileKey, bool)) option {
	if len(c.values) == 0 {
		return nil
	}
	o := make(option, 0, len(c.values))
	for i := range c.values {
		k, ok := key(&c.attr, &c.values[i])
		if !ok {
			return nil
		}
		o = append(o, f.id(k))
	}
	return o
}

// key is the drawer for one value, if it can be looked up at all.
func (f *filing) key(a *attribute, m *matcher) (fileKey, bool) {
	switch m.op {
	case opServiceAccount:
		return fileKey{kind: dimServiceAccount, lit: m.sub}, true
	case opNamespace:
		return namespaceKey(m)
	case opTrustDomain:
		return fileKey{kind: dimTrustDomain, lit: m.parts[0]}, len(m.parts) == 1 && !strings.Contains(m.parts[0], "/")
	case opSpiffeSuffix:
		return fileKey{kind: dimName, how: fileSuffix, lit: m.lit}, true
	case opTemplate:
		return fileKey{kind: dimPath, how: filePrefix, lit: m.template.head[0]}, true
	case opRequestPrincipal:
		if m.jwt.op == opExact {
			return fileKey{kind: dimSubject, lit: m.jwt.lit}, true
		}
		return fileKey{kind: dimIssuer, lit: m.iss.lit}, m.iss.op == opExact
	case opCIDR:
		kind, ok := addrDims[a.kind]
		return fileKey{kind: kind, how: fileCIDR, net: m.prefix}, ok
	case opPort:
		return fileKey{kind: dimPort, how: filePort, port: m.port}, true
	}
	kind, ok := textDims[a.kind]
	return fileKey{kind: kind, how: textHow[m.op], arg: f.arg(a), lit: m.lit}, ok
}

// secondKey is another drawer for values that name two things.
func (f *filing) secondKey(_ *attribute, m *matcher) (fileKey, bool) {
	switch {
	case m.op == opServiceAccount:
		return fileKey{kind: dimNamespace, lit: m.lit}, true
	case m.op == opRequestPrincipal && m.jwt.op == opExact && m.iss.op == opExact:
		return fileKey{kind: dimIssuer, lit: m.iss.lit}, true
	case m.op == opTemplate && m.template.deep && m.template.tail != "":
		return fileKey{kind: dimPath, how: fileSuffix, lit: m.template.tail}, true
	}
	return fileKey{}, false
}

func namespaceKey(m *matcher) (fileKey, bool) {
	first := strings.TrimPrefix(m.parts[0], "/ns/")
	if len(m.parts) == 1 && strings.IndexByte(first, '/') == len(first)-1 {
		return fileKey{kind: dimNamespace, lit: first[:len(first)-1]}, true
	}
	return fileKey{kind: dimNamespace, how: filePrefix, lit: first}, first != ""
}

var textHow = map[op]fileHow{
	opExact: fileExact, opPrefix: filePrefix, opSuffix: fileSuffix, opNonEmpty: filePresent, opExists: filePresent,
}

var textDims = map[attrKind]dimKind{
	attrNames: dimName, attrSNI: dimSNI, attrMethod: dimMethod, attrPath: dimPath, attrHost: dimHost,
	attrHeader: dimHeader, attrClaim: dimClaim,
}

var addrDims = map[attrKind]dimKind{attrSourceIP: dimSourceIP, attrRemoteIP: dimRemoteIP, attrDestIP: dimDestIP}

// arg interns an attribute's argument; 0 for those without.
func (f *filing) arg(a *attribute) int {
	if a.name == "" && len(a.path) == 0 {
		return 0
	}
	id := string(rune(a.kind)) + a.name + "\x00" + strings.Join(a.path, "\x00")
	n, ok := f.argOf[id]
	if !ok {
		n = len(f.args)
		f.args = append(f.args, *a)
		f.argOf[id] = n
	}
	return n
}

// id numbers a key.
func (f *filing) id(k fileKey) keyID {
	id, ok := f.idOf[k]
	if !ok {
		id = keyID(len(f.keys)) //nolint:gosec // a file has at most maxNodes values
		f.keys = append(f.keys, k)
		f.idOf[k] = id
	}
	return id
}
