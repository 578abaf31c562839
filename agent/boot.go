// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

func openBoot(cfg *config.Config, names [2]update.SlotID) (update.Bootloader, error) {
	env, err := boot.ReadConfig(cfg.Boot.FWEnvConfig)
	if err != nil {
		return nil, err
	}
	return boot.Open(boot.Options{Env: env, Convention: cfg.Boot.Convention, Slots: names[:], Attempts: cfg.Update.Attempts})
}
