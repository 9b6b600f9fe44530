// A module of its own, so that only who runs this gate downloads the vectors (100 MB unpacked).
module github.com/writ-auth/writ/test/conformance/wycheproof

go 1.26.0

require (
	github.com/c2sp/wycheproof v0.0.0-20250901140545-b51abcfb8daf
	github.com/writ-auth/writ v0.0.0
)

require (
	github.com/golang-jwt/jwt/v5 v5.3.1 // indirect
	github.com/lestrrat-go/blackmagic v1.0.4 // indirect
	github.com/lestrrat-go/httpcc v1.0.1 // indirect
	github.com/lestrrat-go/httprc v1.0.6 // indirect
	github.com/lestrrat-go/iter v1.0.2 // indirect
	github.com/lestrrat-go/jwx/v2 v2.1.7 // indirect
	github.com/lestrrat-go/option v1.0.1 // indirect
	golang.org/x/crypto v0.58.0 // indirect
)

// The module's own name is in lower case; proxies serve it under the repository's.
replace github.com/c2sp/wycheproof => github.com/C2SP/wycheproof v0.0.0-20250901140545-b51abcfb8daf

replace github.com/writ-auth/writ => ../../..

// Nothing imports the vectors; a tool line keeps their module required.
tool github.com/c2sp/wycheproof/tools/vectorlint
