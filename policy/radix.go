package policy

import "strings"

// radix finds all stored prefixes of a value in one walk down it; built over reversed text, all stored suffixes.
type radix struct {
	reversed bool
	root     radixNode
}

type radixNode struct {
	label    string // text between the parent and here
	node     *node  // what is filed under the text down to here, or nil
	first    string // first byte of each child's label, in the children's order
	children []*radixNode
}

// insert returns the node at key, made if need be. The caller fills in node.
func (t *radix) insert(key string) *radixNode {
	if t.reversed {
		key = reverse(key)
	}
	n := &t.root
	for key != "" {
		i := strings.IndexByte(n.first, key[0])
		if i < 0 {
			child := &radixNode{label: key}
			n.first += key[:1]
			n.children = append(n.children, child)
			return child
		}
		child := n.children[i]
		common := commonPrefix(child.label, key)
		if common < len(child.label) { // split the edge
			lower := *child
			lower.label = child.label[common:]
			*child = radixNode{label: child.label[:common], first: lower.label[:1], children: []*radixNode{&lower}}
		}
		n, key = child, key[common:]
	}
	return n
}

// search searches every drawer whose key is a prefix (or suffix) of v, the empty one included.
func (t *radix) search(ix *index, r *Request, best *int32, v string) {
	n := &t.root
	for {
		if n.node != nil {
			n.node.search(ix, r, best)
		}
		if v == "" {
			return
		}
		next := v[0]
		if t.reversed {
			next = v[len(v)-1]
		}
		i := strings.IndexByte(n.first, next)
		if i < 0 {
			return
		}
		n = n.children[i]
		if len(n.label) > len(v) {
			return
		}
		if !t.reversed {
			if v[:len(n.label)] != n.label {
				return
			}
			v = v[len(n.label):]
			continue
		}
		for j := range len(n.label) {
			if n.label[j] != v[len(v)-1-j] {
				return
			}
		}
		v = v[:len(v)-len(n.label)]
	}
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func reverse(s string) string {
	b := []byte(s)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}
