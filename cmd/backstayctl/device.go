// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/collect"
)

func deviceCommand() *cli.Command {
	return &cli.Command{
		Name: "device", Short: "devices as the collector knows them",
		Sub: []*cli.Command{deviceListCommand(), deviceShowCommand()},
	}
}

func storeFlag(e *evidence) func(*flag.FlagSet) {
	return func(fs *flag.FlagSet) {
		fs.StringVar(&e.store, "store", e.store, "`directory` of a collector's store; it may be in use")
	}
}

func deviceListCommand() *cli.Command {
	var e evidence
	return &cli.Command{
		Name: "list", Short: "show every device that ever sent something",
		Long:  "STATUS is what the device, or the broker in its name, said last: online, offline, or - when nothing was heard since the\nserver started. It is not signed and proves nothing; records and receipts do.",
		Flags: storeFlag(&e),
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			s, err := e.open(ctx)
			if err != nil {
				return err
			}
			defer s.Close()
			all, err := s.Devices(ctx)
			if err != nil {
				return err
			}
			if env.JSON {
				return env.PrintJSON("backstayctl.device.list/1", all)
			}
			t := env.Table("DEVICE", "STATUS", "RECORDS", "LOGS", "LAST RECEIVED", "ALARMS")
			for _, d := range all {
				t.Row(d.ID, or(d.Presence.State, "-"), d.Size, len(d.Logs), ago(d.Seen), d.Open)
			}
			return t.Flush()
		},
	}
}

// shown is one device with its alarms and newest records.
type shown struct {
	collect.Device
	Trouble []collect.Alarm `json:"trouble"`
	Newest  []shownRecord   `json:"newest"`
}

type shownRecord struct {
	Index    uint64    `json:"index"`
	Last     uint64    `json:"last"` // the same, except of records that were shed as one
	Time     time.Time `json:"time"`
	Code     string    `json:"code"`
	Severity string    `json:"severity"`
	Outcome  string    `json:"outcome"`
	Message  string    `json:"message"`
	Shed     bool      `json:"shed"`
}

func deviceShowCommand() *cli.Command {
	var e evidence
	var n int
	return &cli.Command{
		Name: "show", Args: "ID", Short: "show the logs, the alarms and the newest records of one device",
		Long: "What a record says is the device's word. That it was not changed since is what `backstayctl audit verify` proves.",
		Flags: func(fs *flag.FlagSet) {
			storeFlag(&e)(fs)
			fs.IntVar(&n, "n", 10, "`number` of records")
		},
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			if n < 0 || n > 100000 {
				return cli.Usagef("-n must be from 0 to 100000")
			}
			e.device = args[0]
			s, err := e.open(ctx)
			if err != nil {
				return err
			}
			defer s.Close()
			devices, err := e.devices(ctx, s)
			if err != nil {
				return err
			}
			d := shown{Device: devices[0]}
			if d.Trouble, err = s.Alarms(ctx, e.device); err != nil {
				return err
			}
			if d.Newest, err = newest(ctx, s, d.Device, n); err != nil {
				return err
			}
			if env.JSON {
				return env.PrintJSON("backstayctl.device.show/1", d)
			}
			return printDevice(env, d)
		},
	}
}

// newest reads the last n records of the newest log.
func newest(ctx context.Context, s *collect.Bolt, d collect.Device, n int) ([]shownRecord, error) {
	out := []shownRecord{}
	if len(d.Logs) == 0 {
		return out, nil
	}
	last := d.Logs[len(d.Logs)-1]
	o, err := logging.ParseOrigin(last.Origin)
	if err != nil {
		return nil, err
	}
	for l, err := range s.Records(ctx, o, last.Size-min(last.Size, uint64(n))) {
		if err != nil {
			return nil, err
		}
		rec := shownRecord{Index: l.Index, Last: l.End() - 1, Shed: l.Shed()}
		if !rec.Shed {
			if r, err := logging.DecodeLeaf(l.Body); err == nil {
				rec.Time, rec.Code, rec.Severity, rec.Outcome, rec.Message = r.Time, r.Code, r.Severity.String(), r.Outcome.String(), r.Message
			}
		}
		out = append(out, rec)
	}
	return out, nil
}

func printDevice(env *cli.Env, d shown) error {
	t := env.Table()
	t.Row("device", d.ID)
	t.Row("last received", ago(d.Seen))
	if p := d.Presence; !p.Heard.IsZero() {
		t.Row("says it is", or(strings.TrimSuffix(p.State+", "+p.Reason, ", "), "unknown"), "heard "+ago(p.Heard), fmt.Sprintf("%d records, %d with receipts", p.Size, p.Acked))
	}
	for _, l := range d.Logs {
		t.Row("log", fmt.Sprintf("epoch %d", l.Epoch), fmt.Sprintf("%d records, %d shed", l.Size, l.Shed), "root "+l.Root)
	}
	for _, a := range d.Trouble {
		t.Row("alarm", a.Level, a.Code, a.What, fmt.Sprintf("%d times, last %s", a.Count, day(a.Last)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(d.Newest) == 0 {
		return nil
	}
	fmt.Fprintln(env.Stdout)
	t = env.Table("INDEX", "TIME", "SEVERITY", "EVENT", "OUTCOME", "MESSAGE")
	for _, r := range d.Newest {
		text := r.Message
		if r.Shed {
			text = "body dropped on the device for lack of space, hash kept"
		}
		index := fmt.Sprint(r.Index)
		if r.Last > r.Index {
			index = fmt.Sprintf("%d-%d", r.Index, r.Last)
			text = fmt.Sprintf("bodies of %d records dropped on the device for lack of space, one hash kept", r.Last-r.Index+1)
		}
		t.Row(index, moment(r.Time), or(r.Severity, "-"), or(r.Code, "-"), or(r.Outcome, "-"), text)
	}
	return t.Flush()
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return cli.Duration(time.Since(t)) + " ago"
}
