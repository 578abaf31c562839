// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
)

func (d *device) auditCommand() *cli.Command {
	return &cli.Command{
		Name: "audit", Short: "read, verify, export and write the audit log on this device",
		Sub: []*cli.Command{d.auditTail(), d.auditStatus(), d.auditVerify(), d.auditExport(), d.auditWrite(), auditCatalogue()},
	}
}

func (d *device) auditVerify() *cli.Command {
	return &cli.Command{
		Name: "verify", Short: "recompute the whole log on this device and compare it with the signed heads",
		Long: `Ends with code 6 when a record is altered, missing or moved. This is the device's word about itself; for a verdict
that does not trust the device, export the log and run ` + "`backstayctl audit verify`.",
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			r, err := ask[control.AuditReport](ctx, d, control.MethodAuditVerify, nil)
			if err != nil {
				return err
			}
			return printReport(env, r)
		},
	}
}

func printReport(env *cli.Env, r control.AuditReport) error {
	failed := cli.Findings("the audit log cannot be believed", "backstay audit export FILE, and give the file to whoever collects the log")
	if r.Bad != nil {
		failed.Why = fmt.Sprintf("records %d to %d: %s", r.Bad.First, r.Bad.Last, reason(r.Bad.Code, r.Bad.Why))
	}
	if env.JSON {
		if err := env.PrintJSON("backstay.audit-verify/1", r); err != nil || r.OK {
			return err
		}
		return failed.Quiet()
	}
	t := env.Table()
	t.Row("log", r.Origin)
	t.Row("records", fmt.Sprintf("%d to %d", r.First, max(r.Size, 1)-1), when(r.FirstAt)+" to "+when(r.LastAt))
	t.Row("signed head", fmt.Sprintf("covers %d, root %s", r.Size-min(r.Size, r.Unsigned), or(r.Root, "-")))
	t.Row("losses", fmt.Sprintf("%d bodies dropped, %d gaps reported", r.Shed, r.Gaps))
	for _, name := range r.Receipts {
		t.Row("receipt", name)
	}
	if r.OK {
		t.Row("result", "verified")
	}
	if err := t.Flush(); err != nil || r.OK {
		return err
	}
	return failed
}

func (d *device) auditExport() *cli.Command {
	var params control.ExportParams
	return &cli.Command{
		Name: "export", Args: "FILE", Short: "write the log as evidence into a new file; - is standard output",
		Long: "The file can be verified without this device: backstayctl audit verify FILE. A broken-off export leaves no file.",
		Flags: func(fs *flag.FlagSet) {
			fs.BoolVar(&params.WithoutPersonal, "without-personal", false, "leave out user names, addresses and other personal values; the file verifies all the same")
		},
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			if args[0] == "-" {
				if cli.Terminal(env.Stdout) {
					return cli.Usagef("refusing to write the whole log to a terminal; name a file or redirect the output")
				}
				return d.stream(ctx, control.MethodAuditExport, params, env.Stdout)
			}
			return d.exportFile(ctx, env, params, args[0])
		},
	}
}

// exportFile writes the export beside its name and renames it when it is whole, so that half an export is never taken for one.
func (d *device) exportFile(ctx context.Context, env *cli.Env, params control.ExportParams, name string) (err error) {
	if _, err := os.Lstat(name); err == nil {
		return &cli.Error{Exit: cli.ExitFailed, Code: "exists", What: "write export: " + name + " exists", Next: "name a new file"}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write export: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".backstay-export-*")
	if err != nil {
		return fmt.Errorf("write export: %w", err)
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if err := d.stream(ctx, control.MethodAuditExport, params, tmp); err != nil {
		return err
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("write export: %w", err)
	}
	if err := os.Link(tmp.Name(), name); err != nil { // unlike rename, link does not replace a file that came meanwhile
		return fmt.Errorf("write export: %w", err)
	}
	if err := os.Remove(tmp.Name()); err != nil {
		return fmt.Errorf("write export: %w", err)
	}
	return printDone(env, control.Done{What: "wrote " + name})
}
