package policy

import (
	"hash/maphash"
	"math/bits"
	"net/netip"
	"strings"
)

// fileHow is how a value opens a drawer.
type fileHow uint8

const (
	fileExact fileHow = iota
	filePort
	fileCIDR
	filePrefix
	fileSuffix
	filePresent
)

// fileKey names one drawer. It is comparable: equal keys share a drawer.
type fileKey struct {
	lit    string
	number uint32 // the port, or the network's number
	shelf  shelfID
	how    fileHow
}

// keyID numbers the keys of one filing: comparing and counting numbers costs a fraction of hashing keys.
type keyID int32

// keyNumbers gives keys their numbers. It is a hash table that does what a map cannot: find or add in one go, and grow
// without reading the keys again, which lie all over the memory of the documents.
type keyNumbers struct {
	seed  maphash.Seed
	slots []keySlot // a power of two, less than three quarters in use
	keys  []fileKey // by their number
}

type keySlot struct {
	hash uint32
	next keyID // the key's number and one; zero when the slot is free
}

func newKeyNumbers(room int) keyNumbers {
	return keyNumbers{seed: maphash.MakeSeed(), slots: make([]keySlot, 1<<bits.Len(uint(2*room))), keys: make([]fileKey, 0, room)} //nolint:gosec // G115: not negative
}

// id numbers a key.
func (t *keyNumbers) id(k fileKey) keyID {
	hash := uint32(maphash.String(t.seed, k.lit)) ^ (uint32(k.shelf)<<3|uint32(k.how))*0x9e3779b1 ^ k.number*0x85ebca6b //nolint:gosec // G115: what is cut off is not missed
	at := t.find(hash, &k)
	if found := t.slots[at].next; found != 0 {
		return found - 1
	}
	t.keys = append(t.keys, k)
	t.slots[at] = keySlot{hash, keyID(len(t.keys))} //nolint:gosec // memory ends long before
	if 4*len(t.keys) >= 3*len(t.slots) {
		t.grow()
	}
	return keyID(len(t.keys) - 1) //nolint:gosec // memory ends long before
}

// find returns the place of a key, or the free slot that it would go into. The key is nil when it is known to be new.
func (t *keyNumbers) find(hash uint32, k *fileKey) int {
	mask := len(t.slots) - 1
	for at := int(hash) & mask; ; at = (at + 1) & mask {
		s := &t.slots[at]
		if s.next == 0 || s.hash == hash && k != nil && t.keys[s.next-1] == *k {
			return at
		}
	}
}

func (t *keyNumbers) grow() {
	old := t.slots
	t.slots = make([]keySlot, 2*len(old))
	for _, s := range old {
		if s.next != 0 {
			t.slots[t.find(s.hash, nil)] = s
		}
	}
}

// shelf is what becomes a dimension: the drawers that one thing of a request opens.
type shelf struct {
	kind dimKind
	attr attribute // argument of dimHeader and dimClaim
}

// shelfID numbers the shelves of one filing. Those without an argument have the number of their kind.
type shelfID int32

// unfiled is the shelf of what cannot be looked up.
const unfiled shelfID = -1

func plainShelves() []shelf {
	s := make([]shelf, dimMethod+1)
	for i := range s {
		s[i].kind = dimKind(i) //nolint:gosec // few
	}
	return s
}

// shelfOf is where plain values of an attribute are filed: texts and networks.
func (f *filing) shelfOf(a *attribute) shelfID {
	switch a.kind {
	case attrNames:
		return shelfID(dimName)
	case attrSourceIP:
		return shelfID(dimSourceIP)
	case attrRemoteIP:
		return shelfID(dimRemoteIP)
	case attrDestIP:
		return shelfID(dimDestIP)
	case attrSNI:
		return shelfID(dimSNI)
	case attrMethod:
		return shelfID(dimMethod)
	case attrPath:
		return shelfID(dimPath)
	case attrHost:
		return shelfID(dimHost)
	case attrHeader:
		return f.argument(dimHeader, a)
	case attrClaim:
		return f.argument(dimClaim, a)
	case attrDestPort, attrRequestPrincipal, attrMetadata: // their values are not plain, or nothing looks them up
		return unfiled
	}
	return unfiled
}

// argument is the shelf of a header or claim.
func (f *filing) argument(kind dimKind, a *attribute) shelfID {
	name := string(rune(kind)) + a.name + "\x00" + strings.Join(a.path, "\x00")
	n, ok := f.argOf[name]
	if !ok {
		n = shelfID(len(f.shelf)) //nolint:gosec // memory ends long before
		f.shelf = append(f.shelf, shelf{kind: kind, attr: *a})
		f.argOf[name] = n
	}
	return n
}

// key is the drawer for one value, if it can be looked up at all. plain is where plain values go.
func (f *filing) key(m *matcher, plain shelfID) (fileKey, bool) {
	switch m.op {
	case opServiceAccount:
		return fileKey{shelf: shelfID(dimServiceAccount), lit: m.sub}, true
	case opNamespace:
		return namespaceKey(m)
	case opTrustDomain:
		return fileKey{shelf: shelfID(dimTrustDomain), lit: m.parts[0]}, len(m.parts) == 1 && !strings.Contains(m.parts[0], "/")
	case opSpiffeSuffix:
		return fileKey{shelf: shelfID(dimName), how: fileSuffix, lit: m.lit}, true
	case opTemplate:
		return fileKey{shelf: shelfID(dimPath), how: filePrefix, lit: m.template.head[0]}, true
	case opRequestPrincipal:
		if m.jwt.op == opExact {
			return fileKey{shelf: shelfID(dimSubject), lit: m.jwt.lit}, true
		}
		return fileKey{shelf: shelfID(dimIssuer), lit: m.iss.lit}, m.iss.op == opExact
	case opPort:
		return fileKey{shelf: shelfID(dimPort), how: filePort, number: uint32(m.port)}, true
	case opCIDR:
		return fileKey{shelf: plain, how: fileCIDR, number: f.net(m.prefix)}, plain != unfiled
	case opExact:
		return fileKey{shelf: plain, how: fileExact, lit: m.lit}, plain != unfiled
	case opPrefix:
		return fileKey{shelf: plain, how: filePrefix, lit: m.lit}, plain != unfiled
	case opSuffix:
		return fileKey{shelf: plain, how: fileSuffix, lit: m.lit}, plain != unfiled
	case opNonEmpty, opExists:
		return fileKey{shelf: plain, how: filePresent}, plain != unfiled
	}
	return fileKey{}, false
}

// secondKey is another drawer for values that name two things.
func (f *filing) secondKey(m *matcher, _ shelfID) (fileKey, bool) {
	switch {
	case m.op == opServiceAccount:
		return fileKey{shelf: shelfID(dimNamespace), lit: m.lit}, true
	case m.op == opRequestPrincipal && m.jwt.op == opExact && m.iss.op == opExact:
		return fileKey{shelf: shelfID(dimIssuer), lit: m.iss.lit}, true
	case m.op == opTemplate && m.template.deep && m.template.tail != "":
		return fileKey{shelf: shelfID(dimPath), how: fileSuffix, lit: m.template.tail}, true
	}
	return fileKey{}, false
}

func namespaceKey(m *matcher) (fileKey, bool) {
	first := strings.TrimPrefix(m.parts[0], "/ns/")
	if len(m.parts) == 1 && strings.IndexByte(first, '/') == len(first)-1 {
		return fileKey{shelf: shelfID(dimNamespace), lit: first[:len(first)-1]}, true
	}
	return fileKey{shelf: shelfID(dimNamespace), how: filePrefix, lit: first}, first != ""
}

// net numbers a network.
func (f *filing) net(p netip.Prefix) uint32 {
	n, ok := f.netOf[p]
	if !ok {
		n = uint32(len(f.nets)) //nolint:gosec // memory ends long before
		f.nets = append(f.nets, p)
		f.netOf[p] = n
	}
	return n
}
