package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// Bounds of what is taken in. They keep one caller from filling the store, and every index entry within a third of a
// PostgreSQL page, its limit.
const (
	maxCaller      = 2560     // bytes: a method and a SPIFFE ID
	maxWord        = 256      // bytes of an issuer, profile, rule, reason, what
	maxName        = 512      // bytes of a state key
	maxText        = 8 << 10  // bytes of a failure
	maxDetail      = 64 << 10 // bytes of an event's detail
	maxCertificate = 64 << 10 // bytes of DER
	maxValue       = 1 << 20  // bytes of a state value
	maxTokenIDs    = 256      // identities of one join token

	defaultPage = 100
	maxPage     = 1000

	defaultQueue = 4096 // changes that wait
	maxGroup     = 512  // changes in one transaction
)

// year10000 is the first moment that neither a certificate nor a time in a record can name.
func year10000() time.Time { return time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }

// text refuses what one of the engines would: NUL and broken UTF-8. One bad value must never reach a transaction that
// it shares with others.
func text(name, value string, limit int) error {
	switch {
	case len(value) > limit:
		return fmt.Errorf("%s has %d bytes, more than %d", name, len(value), limit)
	case !utf8.ValidString(value):
		return fmt.Errorf("%s %.100q is not UTF-8", name, value)
	}
	for i := range len(value) {
		if value[i] == 0 {
			return fmt.Errorf("%s %.100q has a NUL", name, value)
		}
	}
	return nil
}

// required is text that is not empty.
func required(name, value string, limit int) error {
	if value == "" {
		return fmt.Errorf("%s is empty", name)
	}
	return text(name, value, limit)
}

// moment refuses times that a record cannot hold, the zero time among them.
func moment(name string, t time.Time) error {
	if t.Unix() < 0 || !t.Before(year10000()) {
		return fmt.Errorf("%s %v is not between the years 1970 and 9999", name, t)
	}
	return nil
}

func checkSerial(s ca.Serial) error {
	switch {
	case s == ca.Serial{}:
		return errors.New("serial is zero")
	case s[0]&0x80 != 0:
		return fmt.Errorf("serial %s has its top bit set", s)
	}
	return nil
}

func checkIntent(i ca.Intent) error {
	var id error
	if i.ID.IsZero() {
		id = errors.New("identity is empty")
	}
	var life error
	if !i.NotBefore.Before(i.NotAfter) {
		life = fmt.Errorf("not before %v is not before not after %v", i.NotBefore, i.NotAfter)
	}
	return errors.Join(checkSerial(i.Serial), id, life, required("issuer", i.Issuer, maxWord),
		required("caller", i.Caller, maxCaller), text("profile", i.Profile, maxWord), text("TTL rule", i.TTLRule, maxWord),
		moment("not before", i.NotBefore), moment("not after", i.NotAfter), moment("time", i.At))
}

func checkOutcome(o ca.Outcome) error {
	var result error
	switch {
	case (len(o.Certificate) == 0) == (o.Failure == ""):
		result = errors.New("an outcome has either a certificate or a failure")
	case len(o.Certificate) > maxCertificate:
		result = fmt.Errorf("certificate has %d bytes, more than %d", len(o.Certificate), maxCertificate)
	}
	return errors.Join(checkSerial(o.Serial), result, text("failure", o.Failure, maxText), moment("time", o.At))
}

func checkToken(t ca.Token) error {
	var ids error
	switch {
	case t.Hash == [32]byte{}:
		ids = errors.New("hash is zero")
	case len(t.IDs) == 0 || len(t.IDs) > maxTokenIDs:
		ids = fmt.Errorf("%d identities, not 1 to %d", len(t.IDs), maxTokenIDs)
	}
	seen := make(map[spiffeid.ID]bool, len(t.IDs))
	for _, id := range t.IDs {
		if id.IsZero() || seen[id] {
			ids = errors.Join(ids, fmt.Errorf("identity %q is empty or given twice", id))
		}
		seen[id] = true
	}
	return errors.Join(ids, text("node", t.Node, maxWord), text("maker", t.By, maxCaller),
		moment("expiry", t.Expires), moment("creation", t.Created))
}

// checkSubject demands that exactly one of the three is set.
func checkSubject(r ca.Revocation) error {
	n := 0
	for _, set := range []bool{r.Serial != ca.Serial{}, !r.ID.IsZero(), r.KeyHash != [32]byte{}} {
		if set {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("%d of serial, identity and key hash are set, want one", n)
	}
	return nil
}

func checkRevocation(r ca.Revocation) error {
	var until error
	if !r.Until.IsZero() {
		until = moment("until", r.Until)
	}
	return errors.Join(checkSubject(r), until, text("reason", r.Reason, maxWord), text("by", r.By, maxCaller), moment("time", r.At))
}

func checkEvent(e ca.Event) error {
	var detail error
	if e.Detail != "" && e.Detail != "null" && (!json.Valid([]byte(e.Detail)) || strings.TrimLeft(e.Detail, " \t\r\n")[0] != '{') {
		detail = fmt.Errorf("detail %.100q is not a JSON object", e.Detail)
	}
	return errors.Join(required("what", e.What, maxWord), text("by", e.By, maxCaller), text("detail", e.Detail, maxDetail),
		detail, moment("time", e.At))
}

// pageSize fills in the default and refuses what is out of range.
func pageSize(limit int) (int, error) {
	switch {
	case limit == 0:
		return defaultPage, nil
	case limit < 0 || limit > maxPage:
		return 0, fmt.Errorf("limit %d is not between 1 and %d", limit, maxPage)
	}
	return limit, nil
}
