// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
)

// The lab plays the main job of the product on one machine: a fleet server and three devices, each a process of its own,
// talking over mutual TLS on loopback. Nothing in the agent or the server knows of it; it only supplies directories, addresses
// and keys made for one run. lab.go tells the story, the other lab_*.go files are its stage.

func labCommand() *cli.Command {
	l := &lab{}
	return &cli.Command{
		Name: "lab", Short: "run the whole job on this machine: server, three devices, an update, five attacks",
		Long: `Starts the fleet server and three devices with throw-away keys, each a process of its own on loopback. The devices
enrol, repair their planted insecure defaults, install release 1.1.0 and keep it; one is given an image that fails its health
check and goes back by itself. Then five attacks are played, and every device's audit log is verified.

Exit code 0 only if every step held.`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&l.agent, "agent", "", "the device binary; default: backstay beside this program")
			fs.StringVar(&l.dir, "dir", "", "keep everything in this new `directory`; default: a temporary one, removed at the end")
			fs.StringVar(&l.broker, "broker", "front", "`front`, or mosquitto: Debian's broker instead, killed at random while the job runs")
		},
		Run: l.run,
	}
}

type lab struct {
	agent, dir, broker string

	fleet   labFleet
	killed  func() int // how often the broker was killed; nil with the front
	devices []*labDevice
	planted []string // rules the planted defaults break
	report  labReport
}

// Versions of the story.
const (
	labFactory = "1.0.0"
	labNext    = "1.1.0"
	labBroken  = "1.2.0-beta" // fails its health check
	labForged  = "1.3.0"      // its image is altered on the mirror
)

func (l *lab) run(ctx context.Context, env *cli.Env, _ []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if l.agent == "" {
		l.agent = filepath.Join(filepath.Dir(self), "backstay")
	}
	if _, err := os.Stat(l.agent); err != nil {
		return &cli.Error{Exit: cli.ExitNotReady, Code: "no-agent", What: "the device binary is missing", Why: err.Error(), Next: "make build"}
	}
	if l.broker != "front" && l.broker != "mosquitto" {
		return cli.Usagef("--broker %q: it is front or mosquitto", l.broker)
	}
	keep := l.dir != ""
	if !keep {
		if l.dir, err = os.MkdirTemp("", "backstay-lab-"); err != nil {
			return err
		}
	} else if err := os.Mkdir(l.dir, 0o755); err != nil {
		return err
	}
	if l.dir, err = filepath.Abs(l.dir); err != nil {
		return err
	}
	l.fleet = labFleet{dir: filepath.Join(l.dir, "fleet"), self: self}
	l.report = labReport{env: env, began: time.Now()}
	err = l.play(ctx)
	if err == nil && !keep {
		return errors.Join(l.report.print(), os.RemoveAll(l.dir))
	}
	if err != nil {
		err = fmt.Errorf("%w (everything is kept in %s)", err, l.dir)
	}
	return errors.Join(l.report.print(), err)
}

// play runs the story. Power and server end with it.
func (l *lab) play(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	power, off := context.WithCancel(ctx)
	var powered sync.WaitGroup
	defer func() {
		off()
		powered.Wait()
		end() // the server
	}()
	steps := []labStep{
		{"fleet", "authority, repository with root keys 2 of 3, server on mutual TLS", func(ctx context.Context) (string, error) {
			return l.startFleet(ctx, func(run func(context.Context)) { powered.Go(func() { run(power) }) })
		}},
		{"factory", "three devices make their own keys; the birth list knows their names", l.makeDevices},
		{"enrolment", "each device gets its certificate over EST", func(ctx context.Context) (string, error) {
			for _, d := range l.devices {
				powered.Go(func() { d.power(power) })
			}
			return l.enrolled(ctx)
		}},
		{"configuration", "planted insecure defaults are found and repaired", l.repaired},
		{"update", "release " + labNext + " goes to slot B, passes its health checks, is kept", l.updated},
		{"bad image", "release " + labBroken + " fails its health check on cam-3, which goes back by itself", l.wentBack},
	}
	steps = append(steps, l.attacks()...)
	steps = append(steps, labStep{"audit", "every device's log is complete at the collector", func(ctx context.Context) (string, error) {
		return l.audit(ctx, func() { off(); powered.Wait() })
	}})
	for _, s := range steps {
		if err := l.report.step(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) startFleet(ctx context.Context, background func(func(context.Context))) (string, error) {
	if err := os.MkdirAll(l.fleet.dir, 0o755); err != nil {
		return "", err
	}
	if err := l.fleet.create(); err != nil {
		return "", err
	}
	agent, err := os.ReadFile(l.agent)
	if err != nil {
		return "", err
	}
	for version, selftest := range map[string]int{labFactory: 0, labNext: 0, labBroken: 1, labForged: 0} {
		if err := writeLabImage(l.image(version), labProduct, version, agent, selftest); err != nil {
			return "", err
		}
	}
	if err := errors.Join(l.fleet.release(ctx, labFactory, l.image(labFactory), 1), l.fleet.republish(ctx)); err != nil {
		return "", err
	}
	if err := copyTree(l.fleet.path("repo/public"), l.fleet.path("old-public")); err != nil {
		return "", err
	}
	door := []string{"--listen-mqtt", "127.0.0.1:0"}
	if l.broker == "mosquitto" {
		b, err := l.startBroker(ctx)
		if err != nil {
			return "", err
		}
		l.killed = b.killed
		background(b.run)
		door = b.flags()
	}
	if err := l.fleet.start(ctx, door...); err != nil {
		return "", err
	}
	return fmt.Sprintf("enrolment %s, repository %s, mqtt %s", l.fleet.estURL, l.fleet.repoURL, l.fleet.brokerURL), nil
}

func (l *lab) image(version string) string { return filepath.Join(l.dir, version+".img") }

func (l *lab) makeDevices(ctx context.Context) (string, error) {
	var names []string
	for _, name := range []string{"cam-1", "cam-2", "cam-3"} {
		d := &labDevice{name: name, dir: filepath.Join(l.dir, name), agent: l.agent}
		planted, err := d.make(l.image(labFactory), l.fleet)
		if err != nil {
			return "", err
		}
		l.planted = planted
		if _, err := d.birth(ctx); err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		if err := l.fleet.allow(d); err != nil {
			return "", err
		}
		l.devices = append(l.devices, d)
		names = append(names, name+" is "+d.id[:8]+"…")
	}
	return strings.Join(names, ", "), nil
}

func (l *lab) enrolled(ctx context.Context) (string, error) {
	err := l.each(ctx, l.devices, "enrolled", func(s control.Status) bool { return s.Identity.Enrolled && s.Audit.Connected })
	return fmt.Sprintf("%d of %d", len(l.devices), len(l.devices)), err
}

// repaired asks each device for the planted rules: most have been repaired by then. A repair that could lock somebody out waits
// until a person names the rule, which is done here; the rest only a new image can mend, and is reported as failing.
func (l *lab) repaired(ctx context.Context) (string, error) {
	if err := l.each(ctx, l.devices, "baseline checked", func(s control.Status) bool { return !s.Baseline.CheckedAt.IsZero() }); err != nil {
		return "", err
	}
	atOnce, named, reported := 0, 0, 0
	for _, d := range l.devices {
		waiting, rest, err := l.failing(ctx, d)
		if err != nil {
			return "", err
		}
		// The packet filter's repair needs the product's ports, from a policy that the lab does not publish.
		if i := slices.Index(waiting, "firewall.input"); i >= 0 {
			waiting, rest = slices.Delete(waiting, i, i+1), append(rest, "firewall.input")
		}
		if _, err := d.findings(ctx, append([]string{"baseline", "apply"}, waiting...)...); err != nil {
			return "", err
		}
		still, _, err := l.failing(ctx, d)
		if err != nil {
			return "", err
		}
		if still = slices.DeleteFunc(still, func(id string) bool { return slices.Contains(rest, id) }); len(still) > 0 {
			return "", fmt.Errorf("%s: not repaired although named: %v", d.name, still)
		}
		atOnce, named, reported = atOnce+len(l.planted)-len(waiting)-len(rest), named+len(waiting), reported+len(rest)
	}
	return fmt.Sprintf("%d planted and found: %d repaired at once, %d when named, %d reported (only a new image mends them)",
		len(l.devices)*len(l.planted), atOnce, named, reported), nil
}

// failing returns the planted rules that fail on a device: those that can be repaired there, and the others.
func (l *lab) failing(ctx context.Context, d *labDevice) (fixable, rest []string, err error) {
	f, err := d.findings(ctx, "baseline", "check")
	if err != nil {
		return nil, nil, err
	}
	for _, rule := range l.planted {
		i := slices.IndexFunc(f.Items, func(x control.Finding) bool { return x.Rule == rule })
		if i < 0 {
			return nil, nil, fmt.Errorf("%s: planted defect %s was not looked for", d.name, rule)
		}
		switch x := f.Items[i]; {
		case x.Result == "pass" || x.Result == "reboot-needed":
		case x.Result == "not-applicable": // another repair took its ground away: what is not forwarded needs no filter
		case x.Result == "fail" && x.Fixable:
			fixable = append(fixable, rule)
		case x.Result == "fail":
			rest = append(rest, rule)
		default:
			return nil, nil, fmt.Errorf("%s: planted defect %s is %s: %s", d.name, rule, x.Result, x.Reason)
		}
	}
	return fixable, rest, nil
}

func (l *lab) updated(ctx context.Context) (string, error) {
	if err := l.fleet.release(ctx, labNext, l.image(labNext), 2); err != nil {
		return "", err
	}
	if err := l.fleet.release(ctx, labBroken, l.image(labBroken), 2, l.devices[2].id); err != nil {
		return "", err
	}
	if err := l.fleet.republish(ctx); err != nil {
		return "", err
	}
	err := l.each(ctx, l.devices[:2], "on "+labNext, func(s control.Status) bool {
		return s.Firmware.Version == labNext && s.Firmware.Slot == "B" && s.Update.State == "idle" && s.Firmware.Floor == 2
	})
	return "cam-1 and cam-2 run " + labNext + " from slot B, rollback floor 2", err
}

func (l *lab) wentBack(ctx context.Context) (string, error) {
	d := l.devices[2]
	if err := l.each(ctx, l.devices[2:], "back on "+labFactory, func(s control.Status) bool {
		return s.Firmware.Version == labFactory && s.Firmware.Slot == "A" && s.Update.State == "idle" &&
			s.Update.Last != nil && s.Update.Last.Code == "quarantined"
	}); err != nil {
		return "", err
	}
	var h control.History
	if err := d.call(ctx, control.MethodUpdateHistory, &h); err != nil {
		return "", err
	}
	if len(h.Items) != 1 || h.Items[0].Result != "rolled-back" || len(h.Quarantine) != 1 || h.Quarantine[0].Version != labBroken {
		return "", fmt.Errorf("cam-3: history is %+v", h)
	}
	return fmt.Sprintf("cam-3 runs %s from slot A; %s (%s) is left alone", labFactory, labBroken, h.Items[0].Code), nil
}

// each waits until every device's status is as wanted.
func (l *lab) each(ctx context.Context, devices []*labDevice, what string, want func(control.Status) bool) error {
	const limit = 30 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, d := range devices {
		var last error
		for {
			s, err := d.status(ctx)
			if err == nil {
				l.report.watch(d.name, s)
				if want(s) {
					break
				}
				last = fmt.Errorf("firmware %s slot %s, update %s, last error %v, problems %v", s.Firmware.Version, s.Firmware.Slot, s.Update.State, s.Update.Last, s.Agent.Problems)
			} else if ctx.Err() == nil {
				last = err
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not %s after %s: %w", d.name, what, limit, last)
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}
