// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary be backstayctl when a script calls it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"backstayctl": main})
}

// TestScripts runs testdata/script/*.txt, one file for each topic. What a person
// types and reads is tested there and not in Go.
func TestScripts(t *testing.T) {
	examples, err := filepath.Abs("../../configs/examples")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireUniqueNames: true, Setup: func(env *testscript.Env) error {
		env.Setenv("EXAMPLES", examples) // what ships is what is tested
		return nil
	}})
}
