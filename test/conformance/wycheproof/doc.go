// Package wycheproof holds writ's token verification against C2SP's Wycheproof vectors: every case of the JWS, JWK and JWE
// sets, and of the raw signatures under them, with what cannot pass listed by reason: 645 tokens and 3,317 signatures.
//
// The vectors come as a Go module, in the version that module proxies serve.
package wycheproof
