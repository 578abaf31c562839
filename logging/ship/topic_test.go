// SPDX-License-Identifier: Apache-2.0

package ship_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/ship"
)

const someDevice = "abcdefghijklmnopqrstuvwxy2"

func TestTopics(t *testing.T) {
	for _, k := range []ship.Kind{ship.Audit, ship.Receipt, ship.Doorbell, ship.Presence} {
		want := ship.Topic{Device: someDevice, Kind: k}
		got, err := ship.ParseTopic(want.String())
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", want, got, err)
		}
	}
	for _, bad := range []string{
		"", "backstay/v1/", "backstay/v1/" + someDevice, "backstay/v1/" + someDevice + "/", "backstay/v1/" + someDevice + "/audit/",
		"backstay/v1/" + someDevice + "/config", "backstay/v2/" + someDevice + "/audit", "backstay/v1/+/audit", "backstay/v1/#",
		"#", "+/+/+/+", "$SYS/broker", "$share/g/backstay/v1/" + someDevice + "/audit", "/backstay/v1/" + someDevice + "/audit",
		"backstay/v1/" + strings.ToUpper(someDevice) + "/audit", "backstay/v1/" + someDevice[1:] + "/audit",
		"backstay/v1/" + someDevice + "a/audit", "backstay/v1/" + strings.Repeat("a", 1<<16) + "/audit",
		"backstay/v1/" + someDevice + "/audit\x00", "backstay/v1/../" + someDevice + "/audit",
	} {
		if got, err := ship.ParseTopic(bad); !errors.Is(err, logging.ErrRefused) {
			t.Errorf("%.80q: %+v, %v", bad, got, err)
		}
	}
}

func FuzzParseTopic(f *testing.F) {
	f.Add("backstay/v1/" + someDevice + "/audit")
	f.Add("backstay/v1/+/#")
	f.Fuzz(func(t *testing.T, s string) {
		topic, err := ship.ParseTopic(s)
		if err == nil && topic.String() != s {
			t.Fatalf("%q parsed as %q", s, topic)
		}
	})
}
