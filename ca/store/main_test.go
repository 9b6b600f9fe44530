package store_test

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv("WRIT_STORE_HELPER"); kind != "" {
		os.Exit(runHelper(kind))
	}
	code := m.Run()
	stopPostgres()
	os.Exit(code)
}
