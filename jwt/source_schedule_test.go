package jwt_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/writ-auth/writ/jwt"
)

func TestMaxAge(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		want  time.Duration // -1: none
	}{
		{"none", nil, -1},
		{"nothing of interest", []string{"public, s-maxage=60, must-revalidate"}, -1},
		{"plain", []string{"max-age=600"}, 10 * time.Minute},
		{"among others", []string{"public, max-age=600 , must-revalidate"}, 10 * time.Minute},
		{"any case", []string{"Max-Age=600"}, 10 * time.Minute},
		{"quoted", []string{`max-age="600"`}, 10 * time.Minute},
		{"the shortest of two", []string{"max-age=600, max-age=300"}, 5 * time.Minute},
		{"the shortest of two lines", []string{"max-age=300", "max-age=600"}, 5 * time.Minute},
		{"no-cache wins", []string{"max-age=600, no-cache"}, 0},
		{"no-store wins", []string{"no-store", "max-age=600"}, 0},
		{"zero", []string{"max-age=0"}, 0},
		{"negative", []string{"max-age=-1"}, 0},
		{"signed", []string{"max-age=+1"}, 0},
		{"no number", []string{"max-age=soon"}, 0},
		{"no value", []string{"max-age"}, 0},
		{"31 bits and more", []string{"max-age=4294967296"}, (1 << 31) * time.Second},
		{"64 bits and more", []string{"max-age=99999999999999999999"}, (1 << 31) * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := jwt.MaxAge(http.Header{"Cache-Control": tt.lines})
			if !ok {
				got = -1
			}
			if got != tt.want {
				t.Errorf("max-age of %q is %v, want %v", tt.lines, got, tt.want)
			}
		})
	}
}

func FuzzMaxAge(f *testing.F) {
	f.Add("max-age=600, public")
	f.Add(`max-age="600",,=,max-age`)
	f.Add("max-age=99999999999999999999")
	f.Fuzz(func(t *testing.T, line string) {
		h := http.Header{"Cache-Control": {line}}
		if got, ok := jwt.MaxAge(h); got < 0 || got > (1<<31)*time.Second || (!ok && got != 0) {
			t.Errorf("max-age of %q is %v, %v", line, got, ok)
		}
		if got := jwt.NextRefresh(20*time.Minute, h); got < 270*time.Second || got > 22*time.Minute {
			t.Errorf("refresh after %v for %q", got, line)
		}
	})
}

func TestNextRefresh(t *testing.T) {
	for _, tt := range []struct {
		name         string
		refresh      time.Duration
		cacheControl string
		low, high    time.Duration
	}{
		{"configured", 20 * time.Minute, "", 18 * time.Minute, 22 * time.Minute},
		{"a shorter max-age", 20 * time.Minute, "max-age=600", 9 * time.Minute, 11 * time.Minute},
		{"a longer max-age changes nothing", 20 * time.Minute, "max-age=86400", 18 * time.Minute, 22 * time.Minute},
		{"never below the floor", 20 * time.Minute, "max-age=1", 270 * time.Second, 330 * time.Second},
		{"no-store: the floor", 20 * time.Minute, "no-store", 270 * time.Second, 330 * time.Second},
		{"an operator may go below the floor", time.Minute, "max-age=1", 54 * time.Second, 66 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen := map[time.Duration]bool{}
			for range 200 {
				got := jwt.NextRefresh(tt.refresh, http.Header{"Cache-Control": {tt.cacheControl}})
				if got < tt.low || got > tt.high {
					t.Fatalf("refresh after %v, want %v to %v", got, tt.low, tt.high)
				}
				seen[got] = true
			}
			if len(seen) < 100 {
				t.Errorf("%d different waits of 200: too little jitter", len(seen))
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	for failures, most := range map[int]time.Duration{
		1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 6: 32 * time.Second, 7: time.Minute, 8: time.Minute,
		64: time.Minute, 1 << 30: time.Minute,
	} {
		for range 100 {
			if got := jwt.Backoff(failures); got > most || got < most/2 {
				t.Errorf("after %d failures: %v, want %v to %v", failures, got, most/2, most)
			}
		}
	}
}
