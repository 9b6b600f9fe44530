package jwt

// Every bound on what arrives from outside, in one place. request-authentication §3.7, §6.2 and §7 give the reasons.
const (
	maxTokenBytes  = 16 << 10 // one token as received
	maxHeaderBytes = 4 << 10  // its first segment
	maxCachedBytes = 4 << 10  // a token larger than this is verified every time
	maxTokens      = 8        // tokens of one request, all rules together
	maxTriedKeys   = 8        // keys tried for one token
	maxSignatures  = 32       // signatures computed for one request, all rules together
	maxKeyIDBytes  = 512      // a kid, in a token or a key
	maxDepth       = 100      // nested JSON objects and arrays of a token, the outermost included, as Envoy measures

	maxKeySetBytes = 1 << 20 // one JWK Set
	maxKeys        = 256     // its keys

	maxWorkspace = 64 // members of an object that memory is kept for between tokens
	maxLookups   = 64 // claim paths a token remembers the answer for
)
