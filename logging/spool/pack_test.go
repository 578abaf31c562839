// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
)

var updateDict = flag.Bool("update-dict", false, "make the dictionary of bodies anew; only before a release")

var testOrigin = logging.Origin{Device: strings.Repeat("a", 26), Epoch: 1}

// samples are records as devices write them, the most frequent last.
func samples(i int) []logging.Event {
	sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
	hash := "sha256:" + hex.EncodeToString(sum[:])
	n := func(v int) slog.Attr { return slog.Int("pid", v) }
	s := slog.String
	list := []logging.Event{
		logging.NewEvent("config.drift", s("rule", "net.redirects"), s("policy", "base/1"), s("message", "setting changed")),
		logging.NewEvent("mount.added", s("path", "/media/usb"), s("type", "vfat"), s("source", "mount")),
		logging.NewEvent("usb.inserted", s("vendor", "0781"), s("product", "5567"), s("class", "08"), s("source", "uevent")),
		logging.NewEvent("update.installed", s("version", "2.4.2"), s("slot", "B"), s("message", "installed")),
		logging.NewEvent("account.change", s("subject", "root"), s("change", "password"), s("source", "account")),
		logging.NewEvent("kernel.message", s("message", "device eth0 entered promiscuous mode"), slog.Int("level", 4), s("source", "kmsg")),
		logging.NewEvent("net.listen", s("address", "0.0.0.0"), slog.Int("port", 8080), s("protocol", "tcp"), s("exe", "/usr/sbin/httpd"), n(300+i), s("source", "listener")),
		logging.NewEvent("control.command", s("subject", "uid 0"), s("command", "baseline check")),
		logging.NewEvent("auth.fail", s("subject", "root"), s("source_address", fmt.Sprintf("192.168.1.%d", i%250)), s("method", "password"), s("message", "login failed"), s("source", "login")),
		logging.NewEvent("auth.ok", s("subject", "admin"), s("source_address", fmt.Sprintf("192.168.1.%d", i%250)), s("method", "publickey"), s("session", fmt.Sprint("pid ", i)), s("source", "login")),
		logging.NewEvent("heartbeat", slog.Int("size", 1000+i), slog.Int("acked", 1000), slog.Int("fill_percent", 12), slog.Int("lost", 0)),
		logging.NewEvent("file.changed", s("path", fmt.Sprintf("/etc/acme/part-%d.conf", i%9)), s("before", hash), s("after", hash), s("source", "file")),
		logging.NewEvent("app.event", s("subject", "uid 33"), s("exe", "/usr/bin/camera"), s("message", "stream started"), n(100+i), s("source", "intake")),
		logging.NewEvent("exec", s("path", fmt.Sprintf("/usr/libexec/acme/worker-%d", i%17)), n(1000+i), slog.Int("ppid", 812), slog.Int("uid", 33), s("source", "exec")),
	}
	for k := range list {
		e := &list[k]
		e.BootID, e.Firmware, e.Device, e.Quality = "00000000-0000-4000-8000-000000000000", "1.0.0", "product-v1", logging.QualityNTP
		e.Time = time.Unix(1790000000+int64(i), 0)
		e.Monotonic = time.Duration(i) * time.Second
	}
	return list
}

// TestDictionary makes the dictionary on demand, and holds it to what is on flash: a record of the day it was made.
func TestDictionary(t *testing.T) {
	if *updateDict {
		var dict []byte
		for _, e := range samples(0) {
			dict = append(append(dict, logging.EncodeLeaf(testOrigin, 0, time.Unix(1790000000, 0), e)...), '\n')
		}
		if err := os.WriteFile("pack.dict", dict, 0o644); err != nil {
			t.Fatal(err)
		}
		packDict = dict
		body := []byte(dictProof)
		if err := os.WriteFile("testdata/packed.record", (&packer{}).pack(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	packed, err := os.ReadFile("testdata/packed.record")
	if err != nil {
		t.Fatal(err)
	}
	var u unpacker
	if body, err := u.unpack(packed); err != nil || string(body) != dictProof {
		t.Errorf("a record of the day the dictionary was made reads %q, %v: the dictionary was changed, and devices cannot read their logs", body, err)
	}
}

const dictProof = `{"category_uid":1,"class_uid":1007,"activity_id":1,"type_uid":100701,"severity_id":1,"status_id":1,"metadata":{"event_code":"exec"}}`

func TestPackedBodies(t *testing.T) {
	var p packer
	var u unpacker
	raw, packed := 0, 0
	for i := range 200 {
		for _, e := range samples(i) {
			e.BootID, e.Firmware, e.Device = "6d1f2b7e-0c0f-4a57-9e0d-4f4f0a1b2c3d", "2.4.1", "acme-cam-v2"
			body := logging.EncodeLeaf(logging.Origin{Device: "6f2gm5opfpsrsvpt5ypdws2icy", Epoch: 3}, uint64(i), time.Unix(1795000000, 0), e)
			leaf := logging.Leaf{Index: uint64(i), Hash: logging.LeafHash(body), Body: body}
			v := leafValue(0, leaf, &p)
			got, _, err := parseLeaf(leaf.Index, v, &u)
			if err != nil || !bytes.Equal(got.Body, body) {
				t.Fatalf("%s: %v", e.Code, err)
			}
			raw, packed = raw+len(body), packed+len(v)
		}
	}
	t.Logf("%d bytes a record, %d kept", raw/200/14, packed/200/14)
	if packed*3 > raw {
		t.Errorf("%d bytes of records take %d: the dictionary does not fit them", raw, packed)
	}
}

func TestBodiesThatDoNotPack(t *testing.T) {
	var p packer
	var u unpacker
	for name, body := range map[string][]byte{"one byte": {1}, "noise": noise(400), "the longest": noise(logging.MaxLeaf), "longest and empty": make([]byte, logging.MaxLeaf)} {
		leaf := logging.Leaf{Index: 7, Hash: logging.LeafHash(body), Body: body}
		v := leafValue(flagCritical, leaf, &p)
		if len(v) > 1+logging.HashSize+len(body) {
			t.Errorf("%s grew from %d to %d bytes", name, len(body), len(v))
		}
		got, flags, err := parseLeaf(7, v, &u)
		if err != nil || !bytes.Equal(got.Body, body) || flags&flagCritical == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A bomb: a megabyte of zeros in a few hundred bytes is refused, and so is what follows the end.
	if _, err := u.unpack((&packer{}).pack(make([]byte, 1<<20))); err == nil {
		t.Error("a bomb unpacks")
	}
	good := bytes.Clone(p.pack([]byte(dictProof)))
	if _, err := u.unpack(append(good, 0)); err == nil {
		t.Error("bytes after the end are taken")
	}
	if _, err := u.unpack(good[:len(good)-2]); err == nil {
		t.Error("half a body unpacks")
	}
}

func noise(n int) []byte {
	b := make([]byte, 0, n+32)
	for sum := sha256.Sum256(nil); len(b) < n; sum = sha256.Sum256(sum[:]) {
		b = append(b, sum[:]...)
	}
	return b[:n]
}

func FuzzUnpack(f *testing.F) {
	f.Add((&packer{}).pack([]byte(dictProof)))
	f.Add([]byte{3, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var u unpacker
		if body, err := u.unpack(b); err == nil && len(body) > logging.MaxLeaf {
			t.Errorf("%d bytes", len(body))
		}
		if body, err := u.unpack((&packer{}).pack(append(b, dictProof...))); len(b) < logging.MaxLeaf/2 && (err != nil || !bytes.Equal(body, append(b, dictProof...))) {
			t.Errorf("does not come back: %v", err)
		}
	})
}
