package analysis

import (
	"fmt"
	"strconv"
)

// withoutEffect reports the values of a list that another one of it makes pointless. Of two that match the same the later
// one is.
func withoutEffect(l *linter, r *rule, c *condition, list []string, field string) {
	if len(list) < 2 {
		return
	}
	values := make([]operand, len(list))
	set := newPatternSet()
	for i, v := range list {
		values[i] = l.operandOf(r, c, v)
		set.add(&values[i], int32(i))
	}
	for i := range values {
		by := -1
		for n := range set.broader(&values[i]) {
			if int(n) != i {
				by = int(n)
				break
			}
		}
		if by < 0 {
			continue
		}
		message := fmt.Sprintf("%q matches nothing that %q of the same list does not match", list[i], list[by])
		if list[i] == list[by] {
			message = fmt.Sprintf("%q is in the list twice", list[i])
		}
		at := field + "[" + strconv.Itoa(i) + "]"
		l.reportFix(r.policy.doc, codeValueWithin, at, message, "remove it", []Edit{{Field: at, Remove: true, Old: list[i]}})
	}
}
