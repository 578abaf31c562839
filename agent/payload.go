// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/delta"
)

// payloads puts the choice of the smallest payload before a source of images. The base is the slot that runs, under the digest
// that was recorded when its image was installed; the image from the factory has none, and is read once.
func payloads(cfg config.Update, inner update.Source, slots update.Slots, journal update.Journal, emit update.Emit) *delta.Source {
	return &delta.Source{Inner: inner, Policy: cfg.Delta, Budget: int64(cfg.Budget), Emit: emit,
		Running: func(context.Context) (delta.Running, error) {
			id, err := slots.Booted()
			if err != nil {
				return delta.Running{}, err
			}
			job, err := journal.Load()
			if err != nil {
				return delta.Running{}, err
			}
			r, err := slots.Reader(id)
			img := job.Images[id]
			return delta.Running{SlotReader: r, Length: img.Length, SHA256: img.SHA256}, err
		}}
}
