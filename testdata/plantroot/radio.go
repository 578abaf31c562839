// SPDX-License-Identifier: Apache-2.0

package plantroot

import "strings"

// hostapd is a set-up network as it should be, wireless the settings of a device that could be an OpenWrt router with its
// radio off: an open network in it is no defect.
const (
	hostapd = `interface=wlan0
driver=nl80211
ssid=Device-4711
# wpa=0 while testing
wpa=2
wpa_key_mgmt=WPA-PSK
rsn_pairwise=CCMP
wpa_passphrase=Tiger-Kiwi-41-Lamp
ieee80211w=1
wps_state=0
ap_pin=12345670
ctrl_interface=/var/run/hostapd
ctrl_interface_group=0
`
	wireless = `config wifi-device 'radio0'
	option type 'mac80211'
	option disabled '1'

config wifi-iface 'default_radio0'
	option device 'radio0'
	option mode 'ap'
	option ssid 'OpenWrt'
	option encryption 'none'
`
	supplicant = `ctrl_interface=DIR=/run/wpa_supplicant GROUP=netdev
network={
	ssid="Cafe"
	key_mgmt=NONE
	disabled=1
}
`
	bluetooth = `[General]
# DiscoverableTimeout = 0
DiscoverableTimeout = 180
[Policy]
AlwaysPairable = true
`
)

// radioSkeleton is what a clean system has.
func radioSkeleton() []file {
	return []file{
		{name: "etc/hostapd/hostapd.conf", mode: 0o600, text: hostapd}, {name: "etc/config/wireless", mode: 0o600, text: wireless},
		{name: "etc/wpa_supplicant/wpa_supplicant.conf", mode: 0o600, text: supplicant},
		{name: "etc/bluetooth/main.conf", mode: 0o644, text: bluetooth}, {name: "usr/libexec/bluetooth/bluetoothd", mode: 0o755, text: "bluetoothd\n"},
		{name: "lib/modules/6.6.1/kernel/fs/squashfs/squashfs.ko", mode: 0o644, text: "module\n"},
		{name: "lib/modules/6.6.1/kernel/net/sctp/sctp.ko.xz", mode: 0o644, text: "module\n"},
		{name: "lib/modules/6.6.1/kernel/drivers/usb/storage/usb-storage.ko", mode: 0o644, text: "module\n"},
		{name: "sbin/modprobe", link: "/bin/kmod"}, {name: "bin/kmod", mode: 0o755, text: "kmod\n"},
		{name: "etc/modprobe.d/rare.conf", mode: 0o644, text: "# install squashfs /bin/false would stop the device\ninstall sctp /bin/false\ninstall usb_storage /bin/true\n"},
	}
}

func radioDefects() []defect {
	ap := strings.NewReplacer("wpa=2", "wpa=3", "Tiger-Kiwi-41-Lamp", "12345678", "ieee80211w=1", "ieee80211w=0", "wps_state=0", "wps_state=2",
		"/var/run/hostapd", "/tmp/hostapd").Replace(hostapd)
	return []defect{
		{rules: []string{"wireless.wpa1", "wireless.passphrase", "wireless.management-frames", "wireless.wps", "wireless.control-socket"},
			files: []file{{name: "etc/hostapd/hostapd.conf", mode: 0o600, text: ap}}},
		{rules: []string{"wireless.encryption"},
			files: []file{{name: "etc/wpa_supplicant/wpa_supplicant.conf", mode: 0o600, text: strings.Replace(supplicant, "\tdisabled=1\n", "", 1)}}},
		{rules: []string{"wireless.bluetooth"},
			files: []file{{name: "etc/bluetooth/main.conf", mode: 0o644, text: strings.Replace(bluetooth, "DiscoverableTimeout = 180", "DiscoverableTimeout = 0", 1)}}},
		{rules: []string{"device.rare-modules", "device.usb-storage"},
			files: []file{{name: "etc/modprobe.d/rare.conf", mode: 0o644, text: "# install sctp /bin/false\nblacklist sctp\ninstall usb-storage /sbin/modprobe -i usb_storage\n"}}},
	}
}
