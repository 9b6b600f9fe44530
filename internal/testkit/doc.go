// Package testkit gives tests and the demo the real things to run against: Envoy, a built writ, certificates of a
// throw-away CA, and tiny backends. Start with [StartEnvoy] and [StartAuthority].
//
// Nothing here is for production: keys are written unencrypted, and waiting is done by polling. Whatever is started
// here ends with [Process.Stop], and on Linux also when the program that started it is killed.
package testkit
