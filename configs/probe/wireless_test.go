// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"strings"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

const (
	goodAP  = "interface=wlan0\ndriver=nl80211\nssid=Setup\nwpa=2\nwpa_key_mgmt=WPA-PSK\nwpa_passphrase=Zx81-tango-river\nrsn_pairwise=CCMP\nieee80211w=1\nctrl_interface=/var/run/hostapd\nctrl_interface_group=0\nwps_state=0\n"
	goodSTA = "ctrl_interface=DIR=/run/wpa_supplicant GROUP=netdev\nupdate_config=1\n\nnetwork={\n\tssid=\"Home\"\n\tpsk=\"correct horse battery\"\n\tieee80211w=1\n}\n"
	goodUCI = "config wifi-device 'radio0'\n\toption type 'mac80211'\n\nconfig wifi-iface 'lan'\n\toption device 'radio0'\n\toption mode 'ap'\n\toption ssid 'Home'\n\toption encryption 'psk2+ccmp'\n\toption key 'correct horse battery'\n\toption ieee80211w '1'\n"
)

func TestWireless(t *testing.T) {
	ap := func(old, now string) files {
		return files{"etc/hostapd/hostapd.conf": strings.Replace(goodAP, old, now, 1)}
	}
	sta := func(old, now string) files {
		return files{"etc/wpa_supplicant/wpa_supplicant-wlan0.conf": strings.Replace(goodSTA, old, now, 1)}
	}
	uci := func(old, now string) files {
		return files{"etc/config/wireless": strings.Replace(goodUCI, old, now, 1)}
	}
	for name, c := range map[string]struct {
		files          files
		aspect, result string
	}{
		"nothing":          {nil, "encryption", "not-applicable"},
		"no network":       {files{"etc/wpa_supplicant.conf": "ctrl_interface=/run/wpa_supplicant\n"}, "encryption", "not-applicable"},
		"wired":            {ap("driver=nl80211\nssid=Setup\nwpa=2\nwpa_key_mgmt=WPA-PSK", "driver=wired\nieee8021x=1"), "encryption", "pass"},
		"AP":               {ap("", ""), "encryption", "pass"},
		"AP without wpa":   {ap("wpa=2\n", ""), "encryption", "fail; /etc/hostapd/hostapd.conf:1 open"},
		"AP wpa=0":         {ap("wpa=2", "wpa=0"), "encryption", "fail; /etc/hostapd/hostapd.conf:4 open"},
		"AP WEP":           {ap("wpa=2\n", "wep_default_key=0\nwep_key0=\"12345\"\n"), "encryption", "fail; /etc/hostapd/hostapd.conf:5 WEP"},
		"AP dynamic WEP":   {ap("wpa=2\n", "ieee8021x=1\n"), "encryption", "fail; /etc/hostapd/hostapd.conf:4 802.1X"},
		"AP commented":     {ap("wpa=2", "#wpa=0\nwpa=2"), "encryption", "pass"},
		"AP second bss":    {files{"etc/hostapd.conf": goodAP + "bss=wlan0_1\nssid=Guest\n"}, "encryption", "fail; /etc/hostapd.conf:12 open"},
		"AP WPA1":          {ap("wpa=2", "wpa=3"), "wpa1", "fail; /etc/hostapd/hostapd.conf:4 wpa=3"},
		"AP TKIP":          {ap("rsn_pairwise=CCMP", "wpa_pairwise=TKIP CCMP"), "wpa1", "fail; /etc/hostapd/hostapd.conf:7 wpa_pairwise"},
		"AP TKIP unused":   {ap("wps_state=0", "wpa_pairwise=TKIP"), "wpa1", "pass"},
		"AP open, no WPA1": {ap("wpa=2", "wpa=0"), "wpa1", "not-applicable"},
		"AP short":         {ap("Zx81-tango-river", "Zx81tango"), "passphrase", "fail; /etc/hostapd/hostapd.conf:6 9 characters"},
		"AP its name":      {ap("ssid=Setup\n", "ssid=zx81-TANGO-river\n"), "passphrase", "fail; /etc/hostapd/hostapd.conf:6 the name"},
		"AP one letter":    {ap("Zx81-tango-river", "aaaaaaaaaaaaaaaa"), "passphrase", "fail; /etc/hostapd/hostapd.conf:6 a common"},
		"AP a word":        {ap("Zx81-tango-river", "password"), "passphrase", "fail; /etc/hostapd/hostapd.conf:6 "},
		"AP raw key":       {ap("wpa_passphrase=Zx81-tango-river", "wpa_psk="+strings.Repeat("0a", 32)), "passphrase", "not-applicable"},
		"AP good":          {ap("", ""), "passphrase", "pass"},
		"AP SAE":           {ap("wpa_passphrase=Zx81-tango-river", "sae_password=short|mac=ff:ff:ff:ff:ff:ff"), "passphrase", "fail; /etc/hostapd/hostapd.conf:6 5 characters"},
		"AP PIN":           {ap("wps_state=0", "wps_state=2\nap_pin=12345670"), "wps", "fail; /etc/hostapd/hostapd.conf:12 a fixed PIN"},
		"AP PIN unused":    {ap("wps_state=0", "wps_state=0\nap_pin=12345670"), "wps", "pass"},
		"AP PIN method":    {ap("wps_state=0", "wps_state=2\nconfig_methods=push_button label"), "wps", "fail; /etc/hostapd/hostapd.conf:12 config_methods allows label"},
		"AP button":        {ap("wps_state=0", "wps_state=2\nconfig_methods=virtual_push_button physical_push_button push_button"), "wps", "pass"},
		"AP frames":        {ap("ieee80211w=1\n", ""), "management", "fail; /etc/hostapd/hostapd.conf:1 ieee80211w not set"},
		"AP frames 0":      {ap("ieee80211w=1", "ieee80211w=0"), "management", "fail; /etc/hostapd/hostapd.conf:8 ieee80211w 0"},
		"AP control":       {ap("=/var/run/hostapd", "=/tmp/hostapd"), "control", "fail; /etc/hostapd/hostapd.conf:9 below"},
		"AP control UDP":   {ap("=/var/run/hostapd", "=udp:8877"), "control", "fail; /etc/hostapd/hostapd.conf:9 commands"},
		"AP control group": {ap("group=0", "group=users"), "control", "fail; /etc/hostapd/hostapd.conf:9 open to group"},
		"AP no control":    {ap("ctrl_interface=/var/run/hostapd\n", ""), "control", "not-applicable"},
		"AP tmpfs is fine": {ap("=/var/run/hostapd", "=/tmpfs/hostapd"), "control", "pass"},

		"STA":                {sta("", ""), "encryption", "pass"},
		"STA open":           {sta("\tpsk=\"correct horse battery\"", "\tkey_mgmt=NONE"), "encryption", "fail; /etc/wpa_supplicant/wpa_supplicant-wlan0.conf:6 open"},
		"STA open, off":      {sta("\tpsk=\"correct horse battery\"", "\tkey_mgmt=NONE\n\tdisabled=1"), "encryption", "pass"},
		"STA WEP":            {sta("\tpsk=\"correct horse battery\"", "\tkey_mgmt=NONE\n\twep_key0=0123456789"), "encryption", "fail; /etc/wpa_supplicant/wpa_supplicant-wlan0.conf:7 WEP"},
		"STA WPA1":           {sta("\tieee80211w=1", "\tproto=WPA RSN"), "wpa1", "fail; /etc/wpa_supplicant/wpa_supplicant-wlan0.conf:7 proto"},
		"STA TKIP":           {sta("\tieee80211w=1", "\tpairwise=CCMP TKIP"), "wpa1", "fail; /etc/wpa_supplicant/wpa_supplicant-wlan0.conf:7 pairwise"},
		"STA short":          {sta("correct horse battery", "12345678"), "passphrase", "fail; /etc/wpa_supplicant/wpa_supplicant-wlan0.conf:6 "},
		"STA key":            {sta("\"correct horse battery\"", strings.Repeat("f", 64)), "passphrase", "not-applicable"},
		"STA frames":         {sta("\tieee80211w=1\n", ""), "management", "fail"},
		"STA frames for all": {files{"etc/wpa_supplicant.conf": "pmf=1\n" + strings.Replace(goodSTA, "\tieee80211w=1\n", "", 1)}, "management", "pass"},
		"STA control":        {sta("DIR=/run/wpa_supplicant", "DIR=/tmp/wpa"), "control", "fail; /etc/wpa_supplicant/wpa_supplicant-wlan0.conf:1 below"},
		"STA control alone":  {files{"etc/wpa_supplicant.conf": "ctrl_interface=/dev/shm/wpa\n"}, "control", "fail; /etc/wpa_supplicant.conf:1 below"},
		"STA a certificate":  {sta("network={", "cred={\n\tpassword=\"x\"\n}\nnetwork={"), "passphrase", "pass"},

		"UCI":               {uci("", ""), "encryption", "pass"},
		"UCI open":          {uci("'psk2+ccmp'", "'none'"), "encryption", "fail; /etc/config/wireless:8 open"},
		"UCI not said":      {uci("\toption encryption 'psk2+ccmp'\n", ""), "encryption", "fail; /etc/config/wireless:4 open"},
		"UCI WEP":           {uci("psk2+ccmp", "wep-open"), "encryption", "fail; /etc/config/wireless:8 WEP"},
		"UCI stock, off":    {uci("\toption type 'mac80211'", "\toption disabled '1'\n"), "encryption", "pass"},
		"UCI off, open":     {files{"etc/config/wireless": strings.NewReplacer("'psk2+ccmp'", "'none'", "'mac80211'", "'mac80211'\n\toption disabled 1").Replace(goodUCI)}, "encryption", "pass"},
		"UCI iface off":     {uci("'psk2+ccmp'", "none\n\toption disabled '1'"), "encryption", "pass"},
		"UCI enhanced open": {uci("psk2+ccmp", "owe"), "encryption", "pass"},
		"UCI WPA1":          {uci("psk2+ccmp", "psk"), "wpa1", "fail; /etc/config/wireless:8 encryption psk"},
		"UCI mixed":         {uci("psk2+ccmp", "psk-mixed+ccmp"), "wpa1", "fail"},
		"UCI TKIP":          {uci("psk2+ccmp", "psk2+tkip+ccmp"), "wpa1", "fail"},
		"UCI WPA2":          {uci("+ccmp", ""), "wpa1", "pass"},
		"UCI short":         {uci("correct horse battery", "abc12345"), "passphrase", "fail; /etc/config/wireless:9 8 characters"},
		"UCI radius":        {files{"etc/config/wireless": strings.NewReplacer("psk2+ccmp", "wpa2", "correct horse battery", "short").Replace(goodUCI)}, "passphrase", "not-applicable"},
		"UCI button":        {uci("\toption ieee80211w", "\toption wps_pushbutton '1'\n\toption ieee80211w"), "wps", "pass"},
		"UCI label":         {uci("\toption ieee80211w", "\toption wps_label '1'\n\toption ieee80211w"), "wps", "fail; /etc/config/wireless:10 wps_label"},
		"UCI frames":        {uci("\toption ieee80211w '1'\n", ""), "management", "fail"},
		"UCI WPA3":          {files{"etc/config/wireless": strings.NewReplacer("psk2+ccmp", "sae", "\toption ieee80211w '1'\n", "").Replace(goodUCI)}, "management", "pass"},
	} {
		v := newCheck(t, "wireless", c.aspect, "").Check(context.Background(), host(t, tree(t, c.files)))
		if got := brief(v); !strings.HasPrefix(got, c.result) {
			t.Errorf("%s: %s (%s)", name, got, v.Reason)
		}
		for _, secret := range []string{"12345670", "abc12345", "Zx81", "horse"} {
			if strings.Contains(brief(v), secret) {
				t.Errorf("%s: the secret is in the evidence: %s", name, brief(v))
			}
		}
	}
}

func TestWirelessFixes(t *testing.T) {
	for name, c := range map[string]struct{ file, aspect, before, after string }{
		"hostapd WPA1":       {"etc/hostapd.conf", "wpa1", "ssid=a # not a comment\r\nwpa=3\nwpa_pairwise=TKIP CCMP\nieee80211w=0\n", "ssid=a # not a comment\r\nwpa=2\nwpa_pairwise=CCMP\nieee80211w=0\nrsn_pairwise=CCMP\n"},
		"hostapd PIN":        {"etc/hostapd.conf", "wps", "ssid=a\nwps_state=2\nap_pin=12345670\nconfig_methods=label push_button", "ssid=a\nwps_state=2\n# disabled by backstay: ap_pin=12345670\nconfig_methods=push_button"},
		"hostapd frames":     {"etc/hostapd.conf", "management", "ssid=a\nwpa=2\nbss=b\nssid=b\nwpa=2\nieee80211w=0\n", "ssid=a\nwpa=2\nieee80211w=1\nbss=b\nssid=b\nwpa=2\nieee80211w=1\n"},
		"hostapd control":    {"etc/hostapd.conf", "control", "ctrl_interface=/tmp/h\nssid=a\n", "ctrl_interface=/var/run/hostapd\nssid=a\n"},
		"supplicant open":    {"etc/wpa_supplicant.conf", "encryption", "network={\n\tssid=\"a\"\n\tkey_mgmt=NONE\n}\nnetwork={\n\tssid=\"b\"\n\tpsk=\"x\"\n}\n", "network={\n\tssid=\"a\"\n\tkey_mgmt=NONE\n\tdisabled=1\n}\nnetwork={\n\tssid=\"b\"\n\tpsk=\"x\"\n}\n"},
		"supplicant WPA1":    {"etc/wpa_supplicant.conf", "wpa1", "network={\n\tssid=\"a\"\n\tproto=WPA\n}\n", "network={\n\tssid=\"a\"\n\tproto=RSN\n}\n"},
		"supplicant control": {"etc/wpa_supplicant.conf", "control", "# c\nctrl_interface=/tmp\nnetwork={\n\tssid=\"a\"\n}\n", "# c\nctrl_interface=DIR=/var/run/wpa_supplicant GROUP=0\nnetwork={\n\tssid=\"a\"\n}\n"},
		"UCI WPA1":           {"etc/config/wireless", "wpa1", "config wifi-iface\n\toption encryption 'psk-mixed+tkip' # old\n", "config wifi-iface\n\toption encryption 'psk2+ccmp'\n"},
		"UCI frames":         {"etc/config/wireless", "management", "config wifi-iface\n\toption encryption psk2\n\nconfig wifi-iface\n\toption encryption 'none'\n", "config wifi-iface\n\toption encryption psk2\n\toption ieee80211w '1'\n\nconfig wifi-iface\n\toption encryption 'none'\n"},
		"UCI open, joined":   {"etc/config/wireless", "encryption", "config wifi-iface\n\toption mode 'sta'\n\toption encryption 'none'\n", "config wifi-iface\n\toption mode 'sta'\n\toption encryption 'none'\n\toption disabled '1'\n"},
	} {
		ctx := context.Background()
		dir := tree(t, files{c.file: c.before})
		h := host(t, dir)
		check := newCheck(t, "wireless", c.aspect, "")
		plan, err := check.Fix(ctx, h, func(string) bool { return true })
		if err != nil || len(plan) != 1 || string(plan[0].After) != c.after || !plan[0].NextStart || plan[0].Redact == nil {
			t.Errorf("%s: %v %+v\n%s", name, err, plan, plan[0].After)
			continue
		}
		must(t, h.Apply(ctx, plan[0]))
		if v := check.Check(ctx, h); v.Result != probe.Pass {
			t.Errorf("%s: after the fix %+v", name, v)
		}
		if plan, err := check.Fix(ctx, h, func(string) bool { return true }); err != nil || len(plan) != 0 {
			t.Errorf("%s: a second fix: %v %+v", name, err, plan)
		}
		for _, line := range []string{"wpa_passphrase=secret", "\tpsk=\"secret\"", "#psk=\"secret\"", "\toption key 'secret'", "wep_key0=secret", "# disabled by backstay: ap_pin=secret"} {
			if strings.Contains(masked(t, line), "secret") {
				t.Errorf("%s shows %q", name, line)
			}
		}
	}
}

// masked is a line as a difference of this kind would show it.
func masked(t *testing.T, line string) string {
	t.Helper()
	h := host(t, tree(t, files{"etc/hostapd.conf": "ctrl_interface=/tmp/x\nssid=a\n"}))
	plan, err := newCheck(t, "wireless", "control", "").Fix(context.Background(), h, func(string) bool { return true })
	must(t, err)
	return plan[0].Redact(line)
}

func FuzzHostapd(f *testing.F) {
	fuzzFile(f, "etc/hostapd.conf", "wireless", "wpa1", "", nil, goodAP, "bss=\nwpa=1\nbss=\nwpa=3\nssid=", "wpa=3\nrsn_pairwise=TKIP\nwpa_pairwise=TKIP")
}

func FuzzSupplicant(f *testing.F) {
	fuzzFile(f, "etc/wpa_supplicant.conf", "wireless", "encryption", "", nil, goodSTA, "network={\nkey_mgmt=NONE\n}", "network={\nnetwork={\nkey_mgmt=NONE\n}}\n", "blob-base64-x={\n}\n")
}

func FuzzWirelessUCI(f *testing.F) {
	fuzzFile(f, "etc/config/wireless", "wireless", "management", "", nil, goodUCI, "config wifi-iface\n option encryption psk\n", "config wifi-iface\nconfig wifi-iface x\n\toption disabled 1")
}
