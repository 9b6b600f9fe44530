package wycheproof_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// file is a set of vectors.
type file struct {
	NumberOfTests int     `json:"numberOfTests"`
	Groups        []group `json:"testGroups"`
}

// group is vectors with the same key. Which of the key's members is there depends on the set.
type group struct {
	Public    json.RawMessage `json:"public"`  // JWS: a key or a set
	Private   json.RawMessage `json:"private"` // JWS: for symmetric keys only this
	PublicKey struct {
		Modulus  string `json:"modulus"`
		Exponent string `json:"publicExponent"`
		X        string `json:"wx"`
		Y        string `json:"wy"`
		Curve    string `json:"curve"`
		Ed       string `json:"pk"`
	} `json:"publicKey"`
	Tests []vector `json:"tests"`
}

type vector struct {
	ID        int             `json:"tcId"`
	Comment   string          `json:"comment"`
	Result    string          `json:"result"`
	JWS       json.RawMessage `json:"jws"` // a string, but for JSON serialisation
	JWE       json.RawMessage `json:"jwe"`
	Message   string          `json:"msg"` // hexadecimal
	Signature string          `json:"sig"` // hexadecimal
}

// token is the text a client would send.
func (v *vector) token() string {
	raw := v.JWS
	if raw == nil {
		raw = v.JWE
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

// vectorsDir is where the go command keeps the vectors; it downloads them if it has to.
var vectorsDir = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "mod", "download", "-json", "github.com/c2sp/wycheproof").Output()
	if err != nil {
		return "", err
	}
	var module struct{ Dir string }
	err = json.Unmarshal(out, &module)
	return filepath.Join(module.Dir, "testvectors_v1"), err
})

// load reads a set of the module, which has so many cases.
func load(t *testing.T, name string, cases int) *file {
	t.Helper()
	dir, err := vectorsDir()
	if err != nil {
		t.Fatalf("no vectors: %v; run \"go mod download\" here, with network or a module proxy", err)
	}
	return read(t, filepath.Join(dir, name), cases)
}

func read(t *testing.T, path string, cases int) *file {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	found := 0
	for _, g := range f.Groups {
		found += len(g.Tests)
	}
	if found != cases || f.NumberOfTests != cases {
		t.Fatalf("%s has %d cases and says %d, want %d", path, found, f.NumberOfTests, cases)
	}
	return &f
}
