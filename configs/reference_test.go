// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/configs/scan"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestReferencePage(t *testing.T) {
	var got bytes.Buffer
	if err := configs.WriteReference(&got); err != nil {
		t.Fatal(err)
	}
	golden(t, "../docs/baseline.md", got.Bytes())
}

// TestReferenceSchema holds the published schema to the types and kinds. That the shipped documents fit it, and bad ones do
// not, is tested with a validator in configs/scan/interop.
func TestReferenceSchema(t *testing.T) {
	var got bytes.Buffer
	if err := scan.WritePolicySchema(&got); err != nil {
		t.Fatal(err)
	}
	golden(t, "../docs/policy.schema.json", got.Bytes())
}

// golden compares a generated page with the one in the tree, or writes it.
func golden(t *testing.T, page string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(page, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what rules, types and kinds say; run: go test ./configs -run Reference -update", page)
	}
}
