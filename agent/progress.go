// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/update"
)

// progressEvery is how often the progress file is written at most.
const progressEvery = time.Second

// Progress is the file update.json in the run directory: how far an update is, for the product's own screen, which then needs
// neither the socket nor its rights. A key may be added; nothing else changes without a new schema number.
type Progress struct {
	Schema  string        `json:"schema"`
	Time    time.Time     `json:"time"`  // of writing
	State   string        `json:"state"` // name of a row of the lifecycle
	Version string        `json:"version,omitempty"`
	Slot    string        `json:"slot,omitempty"`
	Bytes   int64         `json:"bytes,omitempty"` // written, of Length
	Length  int64         `json:"length,omitempty"`
	Class   string        `json:"class,omitempty"`
	Notes   string        `json:"notes,omitempty"`
	Fixes   []string      `json:"advisories,omitempty"`
	Offered string        `json:"offered,omitempty"` // version that is meant for this device and not begun
	Waiting *control.Step `json:"waiting,omitempty"` // what is held, and why
	Last    string        `json:"last,omitempty"`    // the error the last run ended with
}

// progress writes the file. It is not synced: the run directory does not outlive a reboot.
type progress struct {
	path   string
	brief  func() update.Status
	now    func() time.Time
	logger *slog.Logger
	kick   chan struct{} // something changed; capacity 1

	written Progress // without its time
	failed  bool     // reported
}

// run writes the file whenever something changed, at most once a second, until ctx ends.
func (p *progress) run(ctx context.Context) {
	p.write()
	for {
		select {
		case <-ctx.Done():
			p.write() // that the device reboots is the last thing to say
			return
		case <-p.kick:
		}
		p.write()
		select {
		case <-ctx.Done():
		case <-time.After(progressEvery):
		}
	}
}

func (p *progress) write() {
	s := p.brief()
	v := Progress{Schema: "backstay.update-progress/1", State: string(s.State), Slot: string(s.Slot), Last: s.Last}
	r := s.Release
	if r != nil {
		v.Version, v.Bytes, v.Length = r.Version, s.Offset, r.Length
	} else if r = s.Offered; r != nil {
		v.Offered = r.Version
	}
	if r != nil {
		v.Class, v.Notes, v.Fixes = r.Class, r.Notes, r.Advisories
	}
	if s.Waiting != nil {
		w := step(*s.Waiting)
		v.Waiting = &w
	}
	old, err1 := json.Marshal(p.written)
	now, err2 := json.Marshal(v)
	if err1 != nil || err2 != nil || string(old) == string(now) {
		return
	}
	p.written = v
	v.Time = p.now()
	b, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(p.path+".new", append(b, '\n'), 0o644)
	}
	if err == nil {
		err = os.Rename(p.path+".new", p.path)
	}
	if err != nil && !p.failed {
		p.failed = true
		p.logger.Warn("write progress of the update", "err", err)
	}
}
