// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/component"
)

// openComponents opens what a release may bring beside its image. Without any, the machine gets none, and refuses such a release.
func openComponents(cfg *config.Config) (update.Components, error) {
	if len(cfg.Update.Components) == 0 {
		return nil, nil
	}
	var list []component.Config
	for _, c := range cfg.Update.Components {
		list = append(list, component.Config{Name: c.Name, Kind: c.Kind, Path: c.Path, Argv: c.Argv, Timeout: c.Timeout.Std()})
	}
	set, err := component.Open(list)
	if err != nil {
		return nil, fmt.Errorf("configuration line %d: update.components: %w", cfg.Line("update.components"), err)
	}
	return set, nil
}
