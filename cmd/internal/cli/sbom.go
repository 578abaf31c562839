// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"runtime/debug"
	"strings"
)

// The part of CycloneDX 1.5 that a Go binary can fill truthfully. Field order is output order; the output depends on the
// binary alone, so two builds of one source print the same bytes.
type bom struct {
	Format     string       `json:"bomFormat"`
	Spec       string       `json:"specVersion"`
	Serial     string       `json:"serialNumber"`
	Version    int          `json:"version"`
	Metadata   bomMetadata  `json:"metadata"`
	Components []bomPart    `json:"components"`
	Depends    []bomDepends `json:"dependencies"`
}

type bomMetadata struct {
	Component bomPart `json:"component"`
}

type bomPart struct {
	Type       string        `json:"type"`
	Ref        string        `json:"bom-ref"`
	Name       string        `json:"name"`
	Version    string        `json:"version"`
	PURL       string        `json:"purl,omitempty"`
	Properties []bomProperty `json:"properties,omitempty"`
}

type bomProperty struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type bomDepends struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// writeSBOM writes the bill of materials of the binary info describes.
func writeSBOM(w io.Writer, name, version string, info *debug.BuildInfo) error {
	root := bomPart{Type: "application", Name: name, Version: version, PURL: purl(info.Main.Path, version)}
	root.Ref = root.PURL
	for _, s := range info.Settings {
		switch s.Key {
		case "GOOS", "GOARCH", "GOARM", "GOMIPS", "GOFIPS140", "CGO_ENABLED", "vcs.revision", "vcs.modified":
			root.Properties = append(root.Properties, bomProperty{"go:build:" + s.Key, s.Value})
		}
	}
	std := bomPart{Type: "library", Name: "std", Version: strings.TrimPrefix(info.GoVersion, "go")}
	std.PURL = purl(std.Name, std.Version)
	std.Ref = std.PURL
	b := bom{Format: "CycloneDX", Spec: "1.5", Version: 1, Metadata: bomMetadata{root}, Components: []bomPart{std}}
	for _, m := range info.Deps {
		b.Components = append(b.Components, modulePart(m))
	}
	all := bomDepends{Ref: root.Ref}
	for _, c := range b.Components {
		all.DependsOn = append(all.DependsOn, c.Ref)
	}
	b.Depends = []bomDepends{all}
	sum := sha256.Sum256([]byte(info.String() + name + version))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80 // UUID version 8: made by hashing
	b.Serial = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
	out, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return fmt.Errorf("encode bill of materials: %w", err)
	}
	_, err = w.Write(append(out, '\n'))
	return err
}

// modulePart is one module as the binary really contains it: the replacement, where there is one.
func modulePart(m *debug.Module) bomPart {
	p := bomPart{Type: "library", Name: m.Path, Version: m.Version, PURL: purl(m.Path, m.Version)}
	sum := m.Sum
	if r := m.Replace; r != nil {
		p.Properties = append(p.Properties, bomProperty{"go:replaces", m.Path + "@" + m.Version})
		p.Name, p.Version, p.PURL, sum = r.Path, r.Version, purl(r.Path, r.Version), r.Sum
		if r.Version == "" { // a directory of this source tree: no registry knows it
			p.PURL = ""
		}
	}
	p.Ref = p.PURL
	if p.Ref == "" {
		p.Ref = "replacement-of:" + m.Path
	}
	if sum != "" {
		p.Properties = append(p.Properties, bomProperty{"go:sum", sum})
	}
	return p
}

// purl is the package URL of a module.
func purl(path, version string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return "pkg:golang/" + strings.Join(parts, "/") + "@" + url.QueryEscape(version)
}
