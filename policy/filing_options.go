package policy

// ruleOptions adds the ways to file a rule. A lone source (or operation) is a conjunction, so each of its conditions
// will do; of several, each must be filed by one of its own, together.
func (f *filing) ruleOptions(b *ruleBody) {
	start := len(f.options)
	for _, group := range [...][]clause{b.from, b.to, {b.when}} {
		if len(group) == 1 {
			for i := range group[0] {
				f.conditionOptions(&group[0][i])
			}
			continue
		}
		f.groupOption(group)
	}
	f.options = f.options[:min(len(f.options), start+maxOptions)]
}

// groupOption files a rule of several alternative clauses under all of them, each by its most telling condition.
func (f *filing) groupOption(group []clause) {
	from := len(f.ids)
	for _, c := range group {
		start, end := len(f.options), len(f.ids)
		for i := range c {
			f.conditionOptions(&c[i])
		}
		found := f.options[start:]
		f.options = f.options[:start]
		if len(found) == 0 {
			f.ids = f.ids[:from]
			return
		}
		best := &found[0]
		for i := range found {
			if found[i].rank < best.rank {
				best = &found[i]
			}
		}
		keys := f.keysOf(best) // which stands at end or after it
		f.ids = f.ids[:end+copy(f.ids[end:], keys)]
	}
	if len(group) > 0 {
		f.addOption(from)
	}
}

// addOption makes an option of the keys from the given place on.
func (f *filing) addOption(from int) {
	keys := f.ids[from:]
	f.options = append(f.options, option{from: from, keys: int32(len(keys)), rank: f.rank(keys)}) //nolint:gosec // a file has at most maxNodes values
}

// rank orders options when nothing is known of how common their keys are: exact before pattern, names before methods.
func (f *filing) rank(keys []keyID) int32 {
	worst := int32(0)
	for _, id := range keys {
		k := &f.keys[id]
		worst = max(worst, int32(k.how)<<8|int32(f.shelf[k.shelf].kind))
	}
	return worst
}

// conditionOptions adds the ways to file by one condition: its values, when each of them can be looked up.
func (f *filing) conditionOptions(c *condition) {
	if len(c.values) == 0 {
		return
	}
	plain := f.shelfOf(&c.attr)
	f.valuesOption(c, plain, (*filing).key)
	f.valuesOption(c, plain, (*filing).secondKey)
}

func (f *filing) valuesOption(c *condition, plain shelfID, key func(*filing, *matcher, shelfID) (fileKey, bool)) {
	from := len(f.ids)
	for i := range c.values {
		k, ok := key(f, &c.values[i], plain)
		if !ok {
			f.ids = f.ids[:from]
			return
		}
		f.ids = append(f.ids, f.id(k))
	}
	f.addOption(from)
}
