// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/collect"
)

func auditCommand() *cli.Command {
	return &cli.Command{
		Name: "audit", Short: "verify, export and report the audit logs of devices, and delete personal data from them",
		Sub: []*cli.Command{auditVerifyCommand(), auditExportCommand(), auditReportCommand(), auditForgetCommand()},
	}
}

// evidence says where logs are and which keys a verifier believes.
type evidence struct {
	store  string
	device string
	keys   keyList
	quorum int
}

// keyList is a flag that may be repeated.
type keyList []string

func (k *keyList) String() string     { return strings.Join(*k, " ") }
func (k *keyList) Set(s string) error { *k = append(*k, s); return nil }

func (e *evidence) storeFlags(fs *flag.FlagSet) {
	fs.StringVar(&e.store, "store", e.store, "`directory` of a collector's store; it may be in use")
	fs.StringVar(&e.device, "device", "", "only the device with this `id`")
}

func (e *evidence) keyFlags(fs *flag.FlagSet) {
	fs.Var(&e.keys, "receipt-key", "`key` whose receipts count, as serve prints it; may be repeated. Without one, receipts are not checked")
	fs.IntVar(&e.quorum, "quorum", 1, "`number` of these keys that must have acknowledged a log")
}

func (e *evidence) policy() (logging.Policy, error) {
	e.quorum = min(e.quorum, max(len(e.keys), 1))
	p, err := logging.NewPolicy(e.keys, e.quorum)
	if err != nil {
		return p, &cli.Error{Exit: cli.ExitUsage, Code: "receipt-key", What: "--receipt-key is not usable", Why: err.Error(), Err: err}
	}
	if len(e.keys) == 0 {
		p.Quorum = 0
	}
	return p, nil
}

// open opens the store for reading.
func (e *evidence) open(ctx context.Context) (*collect.Bolt, error) {
	if e.store == "" {
		return nil, cli.Usagef("--store is needed")
	}
	s, err := collect.OpenLive(ctx, e.store)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, &cli.Error{Exit: cli.ExitNotReady, Code: "no-store", What: "no collector store in " + e.store, Next: "give --store the directory that serve has as --collector", Err: err}
	case errors.Is(err, logging.ErrRetry):
		return nil, &cli.Error{Exit: cli.ExitRetry, Code: "store-busy", What: "the store is in use and its owner does not answer", Why: err.Error(), Next: "try again", Err: err}
	}
	return s, err
}

// origins returns the logs of one device or of all, oldest epoch first.
func (e *evidence) origins(ctx context.Context, s *collect.Bolt) ([]logging.Origin, error) {
	devices, err := e.devices(ctx, s)
	if err != nil {
		return nil, err
	}
	var out []logging.Origin
	for _, d := range devices {
		for _, l := range d.Logs {
			o, err := logging.ParseOrigin(l.Origin)
			if err != nil {
				return nil, err
			}
			out = append(out, o)
		}
	}
	return out, nil
}

func (e *evidence) devices(ctx context.Context, s *collect.Bolt) ([]collect.Device, error) {
	if e.device == "" {
		return s.Devices(ctx)
	}
	d, err := s.Device(ctx, e.device)
	if errors.Is(err, collect.ErrUnknown) {
		return nil, &cli.Error{Exit: cli.ExitNotReady, Code: "unknown-device", What: "nothing is stored of device " + e.device,
			Next: "backstayctl device list --store " + e.store, Err: err}
	}
	return []collect.Device{d}, err
}

// verdict is the result for one log.
type verdict struct {
	logging.Report
	Result string `json:"result"` // verified, incomplete, refused
	Code   string `json:"code"`   // of a refusal
	Why    string `json:"why"`
}

// Results of a verdict.
const (
	resultVerified   = "verified"
	resultIncomplete = "incomplete"
	resultRefused    = "refused"
)

// judge verifies one log. The error is one of reading; what is wrong with the log is in the verdict.
func judge(ctx context.Context, h logging.Header, items iter.Seq2[logging.Item, error], want logging.Expect) (verdict, error) {
	rep, err := logging.Verify(ctx, h, items, want)
	v := verdict{Report: rep, Result: resultVerified}
	var r *logging.Refusal
	switch {
	case errors.As(err, &r):
		v.Result, v.Code, v.Why = resultRefused, r.Code, r.Error()
	case err != nil:
		return v, err
	case len(rep.Shed) > 0 || len(rep.Gaps) > 0:
		v.Result, v.Why = resultIncomplete, fmt.Sprintf("the device shed %d records in %d runs and reported %d losses", shedCount(rep), len(rep.Shed), len(rep.Gaps))
		if rep.Unnamed > 0 {
			v.Why += fmt.Sprintf("; %d of the bodies that are not here are named by no log.shed record: somebody else may have removed them", rep.Unnamed)
		}
	case rep.First > 0:
		v.Result, v.Why = resultIncomplete, fmt.Sprintf("records before %d are not in the file", rep.First)
	case rep.Unsigned > 0:
		v.Result, v.Why = resultIncomplete, fmt.Sprintf("the newest %d records are not signed yet", rep.Unsigned)
	}
	return v, nil
}

func auditVerifyCommand() *cli.Command {
	var e evidence
	return &cli.Command{
		Name: "verify", Args: "[FILE]", Short: "recompute every record and signature of an export file or a store",
		Long: `FILE is what ` + "`backstay audit export`" + ` or ` + "`backstayctl audit export`" + ` wrote; - is standard input. Nothing is asked of the device
or the collector: the file, and the receipt keys if you give them, are all that is looked at.

Ends with 0 when every log is complete and unaltered; with 6 when it is unaltered but not complete (bodies shed for lack of
space, losses the device reported, alarms of the collector); with 5 when a check said no, and names the first bad record.`,
		Flags: func(fs *flag.FlagSet) { e.storeFlags(fs); e.keyFlags(fs) },
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			if (len(args) == 1) == (e.store != "") {
				return cli.Usagef("give either FILE or --store")
			}
			var vs []verdict
			alarms := 0
			var err error
			if len(args) == 1 {
				vs, err = e.verifyFile(ctx, env, args[0])
			} else {
				vs, alarms, err = e.verifyStore(ctx)
			}
			if err != nil {
				return err
			}
			return printVerdicts(env, vs, alarms, len(e.keys) > 0)
		},
	}
}

func (e *evidence) verifyFile(ctx context.Context, env *cli.Env, name string) ([]verdict, error) {
	policy, err := e.policy()
	if err != nil {
		return nil, err
	}
	in := env.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read export: %w", err)
		}
		defer f.Close()
		in = f
	}
	h, items, err := logging.ReadExport(in)
	if r := new(logging.Refusal); errors.As(err, &r) {
		return []verdict{{Result: resultRefused, Code: r.Code, Why: r.Error()}}, nil
	}
	if err != nil {
		return nil, err
	}
	v, err := judge(ctx, h, items, logging.Expect{Device: e.device, Policy: policy})
	return []verdict{v}, err
}

// verifyStore verifies every log of the store, or of one device, and counts the alarms that are more than a notice.
func (e *evidence) verifyStore(ctx context.Context) (vs []verdict, alarms int, err error) {
	policy, err := e.policy()
	if err != nil {
		return nil, 0, err
	}
	s, err := e.open(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer s.Close()
	origins, err := e.origins(ctx, s)
	if err != nil {
		return nil, 0, err
	}
	for _, o := range origins {
		h, items, err := s.Evidence(ctx, o, 0)
		if err != nil {
			return nil, 0, err
		}
		v, err := judge(ctx, h, items, logging.Expect{Device: o.Device, Policy: policy})
		if err != nil {
			return nil, 0, err
		}
		vs = append(vs, v)
	}
	all, err := s.Alarms(ctx, e.device)
	return vs, serious(all), err
}

func printVerdicts(env *cli.Env, vs []verdict, alarms int, keys bool) error {
	fail := verdictError(vs, alarms)
	if env.JSON {
		if vs == nil {
			vs = []verdict{}
		}
		err := env.PrintJSON("backstayctl.audit.verify/1", struct {
			Result string    `json:"result"`
			Alarms int       `json:"alarms"`
			Logs   []verdict `json:"logs"`
		}{overall(vs, alarms), alarms, vs})
		if err != nil || fail == nil {
			return err
		}
		return fail.Quiet()
	}
	t := env.Table("LOG", "RECORDS", "SHED", "GAPS", "RECEIPTS", "RESULT")
	for _, v := range vs {
		receipts := "not checked"
		if keys {
			receipts = fmt.Sprintf("%d of %d", v.Acked, v.Size)
		}
		t.Row(or(v.Origin, "-"), v.Records, shedCount(v.Report), len(v.Gaps), receipts, v.Result)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if fail == nil {
		return nil
	}
	return fail
}

func overall(vs []verdict, alarms int) string {
	result := resultVerified
	if alarms > 0 {
		result = resultIncomplete
	}
	for _, v := range vs {
		if v.Result == resultRefused {
			return resultRefused
		}
		if v.Result == resultIncomplete {
			result = resultIncomplete
		}
	}
	return result
}

// verdictError is nil when everything is complete.
func verdictError(vs []verdict, alarms int) *cli.Error {
	switch overall(vs, alarms) {
	case resultVerified:
		return nil
	case resultRefused:
		i := 0
		for vs[i].Result != resultRefused {
			i++
		}
		return &cli.Error{Exit: cli.ExitRefused, Code: vs[i].Code, What: "the log was altered, or is not what it says it is", Why: vs[i].Why,
			Next: "keep the file as evidence; compare with another export of the same log"}
	}
	why := make([]string, 0, len(vs)+1)
	for _, v := range vs {
		if v.Result == resultIncomplete {
			why = append(why, v.Origin+": "+v.Why)
		}
	}
	next := "read the log.gap and log.shed records: they say when, how many and why"
	if alarms > 0 {
		why = append(why, fmt.Sprintf("the collector has %d alarms", alarms))
		next = "backstayctl audit report --store DIR"
	}
	f := cli.Findings("nothing was altered, but the record is not complete", next)
	f.Why = strings.Join(why, "\n")
	return f
}

func shedCount(r logging.Report) (n uint64) {
	for _, s := range r.Shed {
		n += s.Last - s.First + 1
	}
	return n
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func auditExportCommand() *cli.Command {
	var e evidence
	var epoch, from uint64
	var plain bool
	return &cli.Command{
		Name: "export", Args: "FILE", Short: "write the log of one device from a store as evidence into a new file; - is standard output",
		Long: "The file can be verified anywhere with `backstayctl audit verify FILE`. Its format is text, described in docs and in the source of package logging.",
		Flags: func(fs *flag.FlagSet) {
			e.storeFlags(fs)
			fs.Uint64Var(&epoch, "epoch", 0, "`number` of the log; 0 is the newest")
			fs.Uint64Var(&from, "from", 0, "`index` of the first record")
			fs.BoolVar(&plain, "without-personal", false, "leave out user names, addresses and other personal values; the file verifies all the same")
		},
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			if e.device == "" {
				return cli.Usagef("--device is needed")
			}
			s, err := e.open(ctx)
			if err != nil {
				return err
			}
			defer s.Close()
			origins, err := e.origins(ctx, s)
			if err != nil {
				return err
			}
			for i := len(origins) - 1; i >= 0; i-- {
				if epoch != 0 && origins[i].Epoch != epoch {
					continue
				}
				h, items, err := s.Evidence(ctx, origins[i], from)
				if err != nil {
					return err
				}
				if plain {
					items = logging.WithoutPersonal(items)
				}
				return writeEvidence(env, args[0], h, items)
			}
			return &cli.Error{Exit: cli.ExitNotReady, Code: "unknown-epoch", What: "no such log of device " + e.device,
				Next: "backstayctl device show --store " + e.store + " " + e.device}
		},
	}
}

// writeEvidence writes a new file beside its name and links it into place when it is whole.
func writeEvidence(env *cli.Env, name string, h logging.Header, items iter.Seq2[logging.Item, error]) (err error) {
	if name == "-" {
		return logging.WriteExport(env.Stdout, h, items)
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".backstay-export-*")
	if err != nil {
		return fmt.Errorf("write export: %w", err)
	}
	defer os.Remove(tmp.Name())
	err = logging.WriteExport(io.Writer(tmp), h, items)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("write export: %w", err)
	}
	if err := os.Link(tmp.Name(), name); err != nil { // unlike rename, it does not replace a file
		return fmt.Errorf("write export: %w", err)
	}
	if env.JSON {
		return env.PrintJSON("backstayctl.audit.export/1", map[string]string{"file": name, "origin": h.Origin.String()})
	}
	fmt.Fprintf(env.Stdout, "wrote %s of %s\n", name, h.Origin)
	return nil
}
