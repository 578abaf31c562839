// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/backstay/backstay/"

// notOnDevice lists what the device binary must never link, with the reason.
var notOnDevice = map[string]string{
	module + "update/repo":                       "signing keys and publishing belong to the operator",
	module + "update/delta/encode":               "payloads are made on the operator's machine, with all of its memory",
	module + "identity/ca":                       "an enrolment authority on a device would be a way to make identities",
	module + "logging/collect":                   "the collector is the other end of the wire",
	module + "configs/scan":                      "images are scanned on the build machine; its readers and decoders are for hostile files a device never opens",
	"github.com/klauspost/compress/zstd":         "comes with configs/scan",
	"github.com/mochi-mqtt/server/v2":            "a broker on the device is a listening port nobody asked for",
	"google.golang.org/protobuf/proto":           "3.5 MB of flash; it comes with the real sigstore, which third_party/sigstore stands in for",
	"text/template":                              "its use of reflection keeps every exported method of the program in the binary",
	"html/template":                              "pulls text/template",
	"github.com/rogpeppe/go-internal/testscript": "tests only",
}

// importers lists which packages of ours may import an outside module, so that replacing one is work in one place.
var importers = map[string][]string{
	"github.com/theupdateframework/go-tuf/v2": {"update/trust", "update/trust/trusttest", "update/repo"},
	"github.com/eclipse/paho.mqtt.golang":     {"logging/ship"},
	"go.etcd.io/bbolt":                        {"agent/store", "logging/spool", "logging/collect"},
	"github.com/mochi-mqtt/server/v2":         {"logging/collect"},
	"golang.org/x/mod":                        {"logging"},
	"github.com/klauspost/compress":           {"configs/scan", "testdata/deltabench"},
	"github.com/ulikunitz/xz":                 {"configs/scan"},
	"github.com/xi2/xz":                       {"configs/scan"},
}

// pillars never import each other, in either direction: only agent and the commands know more than one.
var pillars = []string{"update", "identity", "configs", "logging"}

type pkg struct {
	ImportPath, ForTest string
	Imports             []string
}

func goList(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,ForTest,Imports"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestDeviceBinaryLinksNothingOfTheFleet(t *testing.T) {
	var linked []string
	for _, p := range goList(t, "-deps", "./cmd/backstay") {
		linked = append(linked, p.ImportPath)
	}
	if !slices.Contains(linked, module+"update/trust") {
		t.Fatal("update/trust is not linked: this test looks at the wrong binary")
	}
	for path, why := range notOnDevice {
		if slices.Contains(linked, path) {
			t.Errorf("the device binary links %s: %s", path, why)
		}
	}
	// A rule about a package that is gone checks nothing.
	all := goList(t, "-deps", "-test", "./...")
	for path := range notOnDevice {
		if strings.HasPrefix(path, module) && !slices.ContainsFunc(all, func(p pkg) bool { return p.ImportPath == path }) {
			t.Errorf("rule about %s: there is no such package", path)
		}
	}
}

func TestWhoMayImportWhom(t *testing.T) {
	for _, p := range goList(t, "./...") {
		self, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			continue
		}
		mine := pillarOf(self)
		for _, imp := range p.Imports {
			for outside, allowed := range importers {
				if (imp == outside || strings.HasPrefix(imp, outside+"/")) && !slices.Contains(allowed, self) {
					t.Errorf("%s imports %s: only %s may", self, imp, strings.Join(allowed, ", "))
				}
			}
			other, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			if theirs := pillarOf(other); mine != "" && theirs != mine && !strings.HasPrefix(other, "testdata/") {
				t.Errorf("%s imports %s: a pillar imports only itself; package agent or a command wires them", self, other)
			}
			if other == "agent" && self != "cmd/backstay" {
				t.Errorf("%s imports agent: only the device command starts the agent", self)
			}
		}
	}
}

func pillarOf(path string) string {
	top, _, _ := strings.Cut(path, "/")
	if slices.Contains(pillars, top) {
		return top
	}
	return ""
}
