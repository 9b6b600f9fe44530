// Package replay says what another set of documents would answer: to live traffic, beside the answer that is enforced
// ([Trial]), and to traffic of the past ([Replay]).
//
// What counts is the difference of the final answers: newly allowed, newly denied, the same answer by another policy.
// What cannot be told is said to be unknown and never guessed: an attribute that a log does not hold, a provider that was
// not asked, a key that is not there.
//
// A Trial answers by the engine that enforces, with the request as it was decoded for it. A Replay answers by the compiled
// rules that enforce; where a record lacks attributes, twice, with each unknown condition once in favour of the request
// and once against it, so that an answer is known if both agree.
package replay
