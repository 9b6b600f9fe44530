package agent

// What tests look at beside the API.
var (
	CheckAnswer  = checkAnswer
	ErrAnswer    = errAnswer
	Life         = life
	RenewalAfter = renewalAfter
	RetryAfter   = retryAfter
	RefusedAfter = refusedAfter
	Spread       = spread
)
