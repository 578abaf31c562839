// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"crypto/fips140"
	"flag"
	"fmt"
	"runtime/debug"
	"strings"
)

// Standard returns the commands both binaries have: version, completion, man.
func Standard() []*Command {
	return []*Command{versionCommand(), completionCommand(), manCommand()}
}

// Build is what this binary was built from.
type Build struct {
	Version  string `json:"version"`
	Revision string `json:"revision"` // of the source tree, "" when not built from one
	Modified bool   `json:"modified"` // the tree had changes that are in no revision
	Go       string `json:"go"`
	Target   string `json:"target"` // linux/arm
	FIPS     FIPS   `json:"fips140"`
}

// FIPS says which cryptographic module is in the binary and whether it runs in FIPS 140-3 mode.
type FIPS struct {
	Module  string `json:"module"`  // the frozen module chosen at build time (GOFIPS140), "" when the tool chain's own
	Enabled bool   `json:"enabled"` // this process runs in the mode
}

func versionCommand() *Command {
	var sbom bool
	return &Command{
		Name: "version", Short: "print what this binary is and what is in it",
		Long: "With --sbom, the parts of this binary as CycloneDX 1.5, from the build info the linker put in: the list cannot\n" +
			"differ from the binary it is printed by.",
		Flags: func(fs *flag.FlagSet) {
			fs.BoolVar(&sbom, "sbom", false, "print the software bill of materials (CycloneDX 1.5 JSON)")
		},
		Run: func(_ context.Context, env *Env, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return &Error{Exit: ExitFailed, Code: "no-build-info", What: "this binary has no build info", Why: "it was built without modules"}
			}
			if sbom {
				return writeSBOM(env.Stdout, env.App().Name, env.App().Version, info)
			}
			b := buildOf(env.App().Version, info)
			if env.JSON {
				return env.PrintJSON(env.App().Name+".version/1", b)
			}
			return printBuild(env, b)
		},
	}
}

// buildOf reads the build info.
func buildOf(version string, info *debug.BuildInfo) Build {
	b := Build{Version: version, Go: strings.TrimPrefix(info.GoVersion, "go"), FIPS: FIPS{Enabled: fips140.Enabled()}}
	var goos, arch, variant string
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		case "GOOS":
			goos = s.Value
		case "GOARCH":
			arch = s.Value
		case "GOARM", "GOMIPS":
			variant = "/" + s.Value
		case "GOFIPS140":
			b.FIPS.Module = s.Value
		}
	}
	b.Target = goos + "/" + arch + variant
	return b
}

func printBuild(env *Env, b Build) error {
	t := env.Table()
	t.Row(env.App().Name, b.Version)
	switch {
	case b.Revision != "" && b.Modified:
		t.Row("source", b.Revision+" with changes")
	case b.Revision != "":
		t.Row("source", b.Revision)
	}
	t.Row("go", b.Go+" "+b.Target)
	module, mode := "the tool chain's own", "off"
	if b.FIPS.Module != "" {
		module = b.FIPS.Module
	}
	if b.FIPS.Enabled {
		mode = "on"
	}
	t.Row("fips 140", fmt.Sprintf("mode %s, module %s", mode, module))
	return t.Flush()
}
