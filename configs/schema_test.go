// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/backstay/backstay/configs/scan"
)

// TestReferenceSchema holds the published schema to the types and kinds. That the shipped documents fit it, and bad ones do
// not, is tested with a validator in configs/scan/interop.
func TestReferenceSchema(t *testing.T) {
	var got bytes.Buffer
	if err := scan.WritePolicySchema(&got); err != nil {
		t.Fatal(err)
	}
	const page = "../docs/policy.schema.json"
	if *update {
		if err := os.WriteFile(page, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s is not what the types and kinds say; run: go test ./configs -run Reference -update", page)
	}
}
