package replay

import (
	"net/http"
	"strconv"

	"github.com/writ-auth/writ/authz"
)

// Outcome is an answer as far as two sets of documents are compared by it. It is comparable, and refers to nothing that is
// reused.
type Outcome struct {
	// Unknown says what the answer depends on and nobody knows, such as "request.headers[x-team]"; empty if it is known.
	Unknown string
	Allow   bool
	// Vague is set if the answer is certain and which layer or policy gives it is not.
	Vague  bool
	Status int
	Layer  authz.Layer
	Reason authz.Reason

	Namespace, Policy string // of the policy that decides, empty when none does
	Rule              int    // its rule
}

// OutcomeOf is the outcome of a decision.
func OutcomeOf(d *authz.Decision) Outcome {
	o := Outcome{Allow: d.Allow, Status: d.Status, Layer: d.Layer, Reason: d.Reason}
	if d.Rule != nil {
		o.Namespace, o.Policy, o.Rule = d.Rule.Policy.Namespace, d.Rule.Policy.Name, d.Rule.Index
	}
	return o
}

func unknown(what string) Outcome { return Outcome{Unknown: what} }

// answers is how many words there are for an answer.
const answers = 3

// words are those for an answer, by index.
func words() [answers]string { return [...]string{"ALLOW", "DENY", "UNKNOWN"} }

func (o *Outcome) index() int {
	switch {
	case o.Unknown != "":
		return 2
	case o.Allow:
		return 0
	}
	return 1
}

// Word is ALLOW, DENY or UNKNOWN.
func (o *Outcome) Word() string { return words()[o.index()] }

// By says in a few words what the answer is due to.
func (o *Outcome) By() string {
	switch {
	case o.Unknown != "":
		return o.Unknown
	case o.Vague:
		return "in any case"
	case o.Policy != "":
		return o.Namespace + "/" + o.Policy + "[" + strconv.Itoa(o.Rule) + "]"
	}
	return string(o.Reason)
}

// Kind is how the answers of two sets of documents to one request differ.
type Kind uint8

// Kinds of differences.
const (
	Same         Kind = iota
	NewlyAllowed      // denied by the old set, allowed by the new one
	NewlyDenied       // allowed by the old set, denied by the new one
	OtherPolicy       // the same answer by another layer or policy, or with another status
	Undecided         // one of the answers is not known
	kinds             // how many there are
)

// Kinds lists them all.
func Kinds() []Kind { return []Kind{Same, NewlyAllowed, NewlyDenied, OtherPolicy, Undecided} }

// String is a word fit for a metric label.
func (k Kind) String() string {
	switch k {
	case Same:
		return "same"
	case NewlyAllowed:
		return "newly_allowed"
	case NewlyDenied:
		return "newly_denied"
	case OtherPolicy:
		return "other_policy"
	case Undecided, kinds:
	}
	return "unknown"
}

// MarshalText writes the word.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the word; what is none is Undecided.
func (k *Kind) UnmarshalText(text []byte) error {
	*k = Undecided
	for _, known := range Kinds() {
		if known.String() == string(text) {
			*k = known
		}
	}
	return nil
}

// Compare says how an answer changes. Another rule of the same policy is no difference.
func Compare(before, after *Outcome) Kind {
	switch {
	case before.Unknown != "" || after.Unknown != "":
		return Undecided
	case before.Allow != after.Allow && after.Allow:
		return NewlyAllowed
	case before.Allow != after.Allow:
		return NewlyDenied
	case before.Vague || after.Vague:
		return Same
	case before.Layer != after.Layer || before.Status != after.Status && !before.Allow ||
		before.Policy != after.Policy || before.Namespace != after.Namespace:
		return OtherPolicy
	}
	return Same
}

// denied is the outcome of a denial by a layer of its own.
func denied(layer authz.Layer, reason authz.Reason) Outcome {
	return Outcome{Status: http.StatusForbidden, Layer: layer, Reason: reason}
}
