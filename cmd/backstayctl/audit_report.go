// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/collect"
)

// report is the evidence about a fleet on one page.
type report struct {
	Made    time.Time      `json:"made"`
	Result  string         `json:"result"`
	Keys    []string       `json:"receipt_keys"` // believed by this verifier
	Quorum  int            `json:"quorum"`
	Devices []deviceReport `json:"devices"`
}

type deviceReport struct {
	Device    string          `json:"device"`
	Result    string          `json:"result"`
	LastSeen  time.Time       `json:"last_seen"`
	SignedBy  []string        `json:"signed_by"` // verifier key of each log: made of the device's birth key
	Logs      []verdict       `json:"logs"`
	Alarms    []collect.Alarm `json:"alarms"`
	FirstTime time.Time       `json:"first_time"`
	LastTime  time.Time       `json:"last_time"`
}

func auditReportCommand() *cli.Command {
	var e evidence
	return &cli.Command{
		Name: "report", Short: "verify a store and say for each device what is proved and by whose signature",
		Long: `The same checks as verify, with what an auditor files: size and time span of each log, losses, alarms, the key it is signed
with, and who has acknowledged it. The exit code is that of verify.`,
		Flags: func(fs *flag.FlagSet) { e.storeFlags(fs); e.keyFlags(fs) },
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			r, err := e.report(ctx)
			if err != nil {
				return err
			}
			return printAuditReport(env, r)
		},
	}
}

func (e *evidence) report(ctx context.Context) (report, error) {
	policy, err := e.policy()
	if err != nil {
		return report{}, err
	}
	s, err := e.open(ctx)
	if err != nil {
		return report{}, err
	}
	defer s.Close()
	devices, err := e.devices(ctx, s)
	if err != nil {
		return report{}, err
	}
	r := report{Made: time.Now().UTC().Truncate(time.Second), Keys: []string{}, Quorum: policy.Quorum, Devices: []deviceReport{}}
	for _, k := range policy.Keys {
		r.Keys = append(r.Keys, k.String())
	}
	var all []verdict
	alarms := 0
	for _, d := range devices {
		dr, err := reportDevice(ctx, s, d, policy)
		if err != nil {
			return report{}, err
		}
		r.Devices = append(r.Devices, dr)
		all = append(all, dr.Logs...)
		alarms += serious(dr.Alarms)
	}
	r.Result = overall(all, alarms)
	return r, nil
}

func reportDevice(ctx context.Context, s *collect.Bolt, d collect.Device, policy logging.Policy) (deviceReport, error) {
	dr := deviceReport{Device: d.ID, LastSeen: d.Seen, SignedBy: []string{}, Logs: []verdict{}}
	for _, l := range d.Logs {
		o, err := logging.ParseOrigin(l.Origin)
		if err != nil {
			return dr, err
		}
		h, items, err := s.Evidence(ctx, o, 0)
		if err != nil {
			return dr, err
		}
		v, err := judge(ctx, h, items, logging.Expect{Device: d.ID, Policy: policy})
		if err != nil {
			return dr, err
		}
		dr.Logs = append(dr.Logs, v)
		dr.SignedBy = append(dr.SignedBy, logging.CheckpointVerifierKey(o, h.SPKI))
		if dr.FirstTime.IsZero() {
			dr.FirstTime = v.FirstTime
		}
		if !v.LastTime.IsZero() {
			dr.LastTime = v.LastTime
		}
	}
	var err error
	dr.Alarms, err = s.Alarms(ctx, d.ID)
	dr.Result = overall(dr.Logs, serious(dr.Alarms))
	return dr, err
}

// serious counts the alarms that are more than a notice.
func serious(alarms []collect.Alarm) (n int) {
	for _, a := range alarms {
		if a.Level != collect.Notice {
			n++
		}
	}
	return n
}

func printAuditReport(env *cli.Env, r report) error {
	var all []verdict
	alarms := 0
	for _, d := range r.Devices {
		all = append(all, d.Logs...)
		alarms += serious(d.Alarms)
	}
	fail := verdictError(all, alarms)
	if env.JSON {
		if err := env.PrintJSON("backstayctl.audit.report/1", r); err != nil || fail == nil {
			return err
		}
		return fail.Quiet()
	}
	for i, d := range r.Devices {
		if i > 0 {
			fmt.Fprintln(env.Stdout)
		}
		if err := printDeviceReport(env, d, len(r.Keys) > 0); err != nil {
			return err
		}
	}
	fmt.Fprintf(env.Stdout, "\n%d devices: %s\n", len(r.Devices), r.Result)
	if fail == nil {
		return nil
	}
	return fail
}

func printDeviceReport(env *cli.Env, d deviceReport, keys bool) error {
	t := env.Table()
	t.Row("device", d.Device)
	t.Row("result", d.Result)
	t.Row("events", moment(d.FirstTime)+" to "+moment(d.LastTime))
	for i, v := range d.Logs {
		t.Row("log", fmt.Sprintf("epoch %d: %d records, %d shed, %d losses reported", v.Epoch, v.Size, shedCount(v.Report), len(v.Gaps)))
		t.Row("  root", v.Root)
		t.Row("  signed by", d.SignedBy[i])
		for _, g := range v.Gaps {
			t.Row("  loss", fmt.Sprintf("record %d says %s: %s, count %s", g.Index, g.Code, or(g.Reason, "no reason"), or(g.Count, "unknown")))
		}
		for _, rc := range v.Receipts {
			t.Row("  receipt", fmt.Sprintf("%s for %d records at %s", rc.Key, rc.Size, moment(rc.Time)))
		}
		if !keys {
			t.Row("  receipt", "not checked: no --receipt-key was given")
		}
		if v.Why != "" {
			t.Row("  "+v.Result, v.Why)
		}
	}
	for _, a := range d.Alarms {
		t.Row("alarm", fmt.Sprintf("%s %s, %d times, last %s: %s", a.Level, a.Code, a.Count, moment(a.Last), a.What))
	}
	return t.Flush()
}
