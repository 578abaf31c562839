// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/backstay/backstay/configs"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestReferencePage(t *testing.T) {
	var got bytes.Buffer
	if err := configs.WriteReference(&got); err != nil {
		t.Fatal(err)
	}
	const page = "../docs/baseline.md"
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
		t.Errorf("%s is not what the rules say; run: go test ./configs -run Reference -update", page)
	}
}
