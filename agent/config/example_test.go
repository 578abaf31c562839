// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"testing"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/configs/examples"
)

// TestExample: the file a product starts from is one that the agent accepts.
func TestExample(t *testing.T) {
	b, err := examples.Files.ReadFile("agent.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.Parse(b); err != nil {
		t.Fatal(err)
	}
}
