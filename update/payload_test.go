// SPDX-License-Identifier: Apache-2.0

package update_test

import (
	"strings"
	"testing"

	"github.com/backstay/backstay/update"
)

func TestPayloads(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	one := `{"path":"firmware/acme-cam/1.1.0.pack","length":500,"sha256":"` + sum + `","index_length":90,"index_sha256":"` + sum + `","base":"` + sum + `","base_length":700}`
	parse := func(list string) (update.Custom, error) {
		return update.ParseCustom([]byte(strings.Replace(goodCustom, `"floor":1`, `"floor":1,"payloads":`+list, 1)))
	}
	c, err := parse("[" + one + "]")
	if err != nil || len(c.Payloads) != 1 || c.Payloads[0].Length != 500 || c.Payloads[0].BaseLength != 700 || c.Payloads[0].Base[0] != 0xab {
		t.Fatalf("got %+v, %v", c.Payloads, err)
	}
	for name, list := range map[string]string{
		"no list":            one,
		"null in it":         "[null]",
		"too many":           "[" + strings.TrimSuffix(strings.Repeat(one+",", update.MaxPayloads+1), ",") + "]",
		"another product":    "[" + strings.Replace(one, "acme-cam", "acme-hub", 1) + "]",
		"another directory":  "[" + strings.Replace(one, "acme-cam/", "acme-cam/x/", 1) + "]",
		"not a payload":      "[" + strings.Replace(one, ".pack", ".img", 1) + "]",
		"nothing but suffix": "[" + strings.Replace(one, "1.1.0.pack", ".pack", 1) + "]",
		"index too long":     "[" + strings.Replace(one, `"index_length":90`, `"index_length":501`, 1) + "]",
		"no index":           "[" + strings.Replace(one, `"index_length":90`, `"index_length":0`, 1) + "]",
		"base of nothing":    "[" + strings.Replace(one, `"base_length":700`, `"base_length":0`, 1) + "]",
		"base without size":  "[" + strings.Replace(one, `,"base_length":700`, ``, 1) + "]",
		"short digest":       "[" + strings.Replace(one, sum, sum[2:], 1) + "]",
		"twice":              "[" + strings.Replace(one, `"length":500`, `"length":500,"length":501`, 1) + "]",
	} {
		if _, err := parse(list); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			wantRefusal(t, err, "malformed-release")
		}
	}
}
