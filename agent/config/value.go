// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"time"
)

// Duration is a length of time written as a string: "90s", "6h", "1h30m".
type Duration time.Duration

// Std returns it as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return short(time.Duration(d)) }

// MarshalJSON writes the string form.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads the string form; a bare number is refused because it has no unit.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%s is not a duration such as \"6h\"", b)
	}
	v, err := parseDuration(s)
	if err != nil {
		return err
	}
	*d = v
	return nil
}

func parseDuration(s string) (Duration, error) {
	v, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as \"6h\" or \"90s\"", s)
	}
	if v < 0 {
		return 0, fmt.Errorf("%q is negative", s)
	}
	return Duration(v), nil
}

// short is time.Duration's string without trailing zero units: 6h, not 6h0m0s.
func short(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if len(s) > len(zero) && s[len(s)-len(zero):] == zero {
			s = s[:len(s)-2]
		}
	}
	return s
}

// Secret holds a value that must not show up in a log, a status answer or an error text. However it is printed, it reads
// "[redacted]"; only Reveal gives it out.
type Secret struct{ value string }

const redacted = "[redacted]"

// NewSecret hides value.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the value to the one place that needs it.
func (s Secret) Reveal() string { return s.value }

func (s Secret) String() string   { return redacted }
func (s Secret) GoString() string { return redacted }

// Format covers every verb, %x included.
func (s Secret) Format(f fmt.State, _ rune) { f.Write([]byte(redacted)) } //nolint:errcheck // fmt.State never fails

// MarshalJSON, MarshalText and LogValue redact too.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
