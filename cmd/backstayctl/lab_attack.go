// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/logging/spool/spooltest"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/repo"
)

// attacks are five attempts on a device. Each must be refused, for the reason that belongs to it.
func (l *lab) attacks() []labStep {
	return []labStep{
		{"old release", "attack: the mirror offers " + labFactory + " again, with the metadata that was valid then", l.attackRollback},
		{"revoked key", "attack: metadata signed by keys that root 2 revoked, while root 2 is withheld", l.attackRevoked},
		{"freeze", "attack: the mirror goes on serving metadata whose time is over", l.attackFreeze},
		{"altered image", "attack: one byte of the image of " + labForged + " is changed on the mirror", l.attackImage},
		{"edited log", "attack: somebody with root edits an audit record on cam-2's flash", l.attackLog},
	}
}

// mirror makes a copy of what is published, for an attacker to work on.
func (l *lab) mirror(name string) (string, error) {
	dir := l.fleet.path("attack-" + name)
	return dir, copyTree(l.fleet.path("repo/public"), dir)
}

// refused serves dir, asks cam-1 for an update, and expects the refusal.
func (l *lab) refused(ctx context.Context, dir, code string) (string, error) {
	if err := l.fleet.serveDir(dir); err != nil {
		return "", err
	}
	seen, err := expectRefusal(ctx, l.devices[0], code, "update", "check")
	return seen, errors.Join(err, l.fleet.serveDir(l.fleet.path("repo/public")))
}

// expectRefusal runs a command of the device and returns the reason it refuses with. Any other end is an error.
func expectRefusal(ctx context.Context, d *labDevice, code string, args ...string) (string, error) {
	out, err := d.command(ctx, append(args, "--json")...)
	exit, ok := errors.AsType[*labExit](err)
	if !ok {
		return "", fmt.Errorf("%s: backstay %v was not refused: %w %s", d.name, args, err, out)
	}
	var e struct{ Code, Message, Why string }
	if err := json.Unmarshal(out, &e); err != nil || exit.code != int(cli.ExitRefused) || e.Code != code {
		return "", fmt.Errorf("%s: backstay %v: want refusal %s, got %w", d.name, args, code, exit)
	}
	return fmt.Sprintf("refused, %s: %s", e.Code, e.Why), nil
}

func (l *lab) attackRollback(ctx context.Context) (string, error) {
	return l.refused(ctx, l.fleet.path("old-public"), "metadata-rollback")
}

// attackRevoked: the thief has the online keys from before the rotation and signs a newer set with them.
func (l *lab) attackRevoked(ctx context.Context) (string, error) {
	stolen := l.fleet.path("stolen")
	if err := copyTree(l.fleet.path("repo"), stolen); err != nil {
		return "", err
	}
	if err := l.fleet.rotateOnline(ctx); err != nil {
		return "", err
	}
	if err := l.each(ctx, l.devices, "on root 2", func(s control.Status) bool { return s.Trust.RootVersion == 2 }); err != nil {
		return "", err
	}
	r, err := repo.Open(stolen, repo.Options{})
	if err != nil {
		return "", err
	}
	defer r.Close()
	// Several edits, so that the thief's versions are above the honest ones.
	for _, edit := range []func(string, string) (update.Assignment, error){r.PauseRollout, r.ResumeRollout, r.PauseRollout, r.ResumeRollout} {
		if _, err := edit(labProduct, labNext); err != nil {
			return "", err
		}
		if _, err := r.Publish(ctx); err != nil {
			return "", err
		}
	}
	return l.refused(ctx, filepath.Join(stolen, "public"), "bad-signature")
}

// attackFreeze: the mirror keeps serving a set of metadata that was good a moment ago, and does not show what the operator
// publishes after it.
func (l *lab) attackFreeze(ctx context.Context) (string, error) {
	const life = 3 * time.Second
	r, err := repo.Open(l.fleet.path("repo"), repo.Options{TimestampLife: life})
	if err != nil {
		return "", err
	}
	defer r.Close()
	began := time.Now()
	if _, err := r.PauseRollout(labProduct, labBroken); err != nil {
		return "", err
	}
	if _, err := r.Publish(ctx); err != nil {
		return "", err
	}
	dir, err := l.mirror("freeze")
	if err != nil {
		return "", err
	}
	if err := l.fleet.serveDir(dir); err != nil {
		return "", err
	}
	if err := errors.Join(r.Close(), l.fleet.republish(ctx)); err != nil {
		return "", err
	}
	if _, err := l.devices[0].command(ctx, "update", "check"); err != nil {
		return "", fmt.Errorf("before the metadata expired: %w", err)
	}
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(time.Until(began.Add(life + 2*time.Second))):
	}
	return l.refused(ctx, dir, "metadata-expired")
}

func (l *lab) attackImage(ctx context.Context) (string, error) {
	// The rollout is for cam-1. The mirror is the attacker's before the release is published.
	dir, err := l.mirror("before")
	if err != nil {
		return "", err
	}
	if err := l.fleet.serveDir(dir); err != nil {
		return "", err
	}
	if err := errors.Join(l.fleet.release(ctx, labForged, l.image(labForged), 2, l.devices[0].id), l.fleet.republish(ctx)); err != nil {
		return "", err
	}
	if dir, err = l.mirror("image"); err != nil {
		return "", err
	}
	image, err := publishedImage(dir, labForged)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(image)
	if err != nil {
		return "", err
	}
	b[len(b)/2] ^= 1
	if err := errors.Join(os.Remove(image), os.WriteFile(image, b, 0o644), l.fleet.serveDir(dir)); err != nil {
		return "", err
	}
	d := l.devices[0]
	var h control.History
	if err := l.each(ctx, l.devices[:1], "done with "+labForged, func(s control.Status) bool {
		return s.Update.State == "idle" && d.call(ctx, control.MethodUpdateHistory, &h) == nil && len(h.Items) > 0 && h.Items[0].Version == labForged
	}); err != nil {
		return "", err
	}
	s, err := d.status(ctx)
	if err != nil {
		return "", err
	}
	if o := h.Items[0]; o.Result != "rejected" || o.Code != "bad-hash" || s.Firmware.Version != labNext || s.Firmware.Slot != "B" {
		return "", fmt.Errorf("cam-1: %+v, firmware %+v", o, s.Firmware)
	}
	return fmt.Sprintf("refused, %s: %s", h.Items[0].Code, h.Items[0].Why), l.fleet.serveDir(l.fleet.path("repo/public"))
}

// attackLog edits a record past the running agent. The device sees it at the next look, and so would whoever holds a receipt. When
// the agent starts again, it puts the damaged log aside and begins a new epoch whose first record says why.
func (l *lab) attackLog(ctx context.Context) (string, error) {
	const record = 3
	d := l.devices[1]
	if err := l.each(ctx, l.devices[1:2], "acknowledged", acknowledged); err != nil {
		return "", err
	}
	if err := spooltest.Tamper(d.path("state/audit"), record); err != nil {
		return "", err
	}
	out, err := d.command(ctx, "audit", "verify", "--json")
	exit, ok := errors.AsType[*labExit](err)
	var r control.AuditReport
	if !ok || exit.code != int(cli.ExitFindings) || json.Unmarshal(out, &r) != nil || r.Bad == nil || r.Bad.Code != "record-altered" || r.Bad.First != record {
		return "", fmt.Errorf("cam-2: the edit of record %d was not named: %w %s", record, err, out)
	}
	if err := d.restart(); err != nil {
		return "", err
	}
	err = l.each(ctx, l.devices[1:2], "on a new epoch", func(s control.Status) bool {
		return strings.HasSuffix(s.Audit.Origin, "/2") && acknowledged(s)
	})
	return fmt.Sprintf("refused, %s: %s; epoch 2 says so", r.Bad.Code, r.Bad.Why), err
}

// acknowledged: a collector has signed for every record.
func acknowledged(s control.Status) bool { return s.Audit.Size > 0 && s.Audit.Acked == s.Audit.Size }
