// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/logging"
)

func (d *device) auditStatus() *cli.Command {
	return &cli.Command{
		Name: "status", Short: "show how the log stands, what it sees and where it goes",
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			s, err := ask[control.Status](ctx, d, control.MethodStatus, nil)
			if err != nil {
				return err
			}
			if env.JSON {
				return env.PrintJSON("backstay.audit-status/1", s.Audit)
			}
			return printAudit(env, s.Audit)
		},
	}
}

func printAudit(env *cli.Env, a control.Audit) error {
	t := env.Table()
	t.Row("log", a.Origin)
	t.Row("store", fmt.Sprintf("%s, %d %% full", or(a.Store, "unknown"), a.Fill))
	t.Row("records", fmt.Sprintf("%d written, %d signed, %d sent, %d acknowledged, %d removed", a.Size, a.Signed, a.Sent, a.Acked, a.Pruned))
	t.Row("waiting", fmt.Sprintf("%d events not on flash yet, %d lost", a.Pending, a.Lost))
	backlog := fmt.Sprintf("%d records", a.Size-min(a.Size, a.Acked))
	if a.BacklogSeconds > 0 {
		backlog += ", the oldest for at least " + (time.Duration(a.BacklogSeconds) * time.Second).String()
	}
	if a.Stalled {
		backlog += ", nothing was acknowledged for long"
	}
	t.Row("backlog", backlog)
	t.Row("receipt", or(when(a.ReceiptAt), "-"))
	broker := "none: records stay on the device"
	switch {
	case a.Broker != "" && a.Connected:
		broker = a.Broker + ", connected"
	case a.Broker != "":
		broker = a.Broker + ", not connected"
	}
	t.Row("broker", broker)
	i := a.Intake
	t.Row("programs", fmt.Sprintf("%s: %d recorded, %d refused, %d beyond a rate", or(strings.TrimSpace(i.Socket+" "+i.Devlog), "no socket"), i.Accepted, i.Refused, i.Suppressed))
	for _, s := range a.Sources {
		t.Row("source "+s.Name, s.State+": "+s.Detail)
	}
	if a.Failed != "" {
		t.Row("failed", "since "+when(a.FailedSince)+": "+a.Failed)
	}
	if a.Counter != "" {
		t.Row("counter", a.Counter)
	}
	if a.Problem != "" {
		t.Row("problem", a.Problem)
	}
	return t.Flush()
}

// catalogueEntry is one event of the catalogue as JSON.
type catalogueEntry struct {
	Code     string   `json:"code"`
	When     string   `json:"when"`
	By       string   `json:"by"`
	Category int      `json:"category_uid"`
	Class    int      `json:"class_uid"`
	Activity int      `json:"activity_id"`
	Type     int      `json:"type_uid"`
	Severity string   `json:"severity"`
	Outcome  string   `json:"outcome"`
	Critical bool     `json:"critical"`
	Attrs    []string `json:"attributes"`
	Refs     []string `json:"sp_800_213a"`
}

func auditCatalogue() *cli.Command {
	return &cli.Command{
		Name: "catalogue", Short: "list every event this agent can record",
		Long: "Codes, what they mean, who records them, their numbers in OCSF and what they serve in SP 800-213A. It needs no running agent.",
		Run: func(_ context.Context, env *cli.Env, _ []string) error {
			all := logging.Catalogue()
			if env.JSON {
				out := make([]catalogueEntry, len(all))
				for i, e := range all {
					out[i] = catalogueEntry{Code: e.Code, When: e.When, By: e.By, Category: e.Category(), Class: e.Class, Activity: e.Activity, Type: e.Type(),
						Severity: e.Severity.String(), Outcome: e.Outcome.String(), Critical: e.Critical, Attrs: e.Attrs, Refs: e.Refs}
				}
				return env.PrintJSON("backstay.audit-catalogue/1", struct {
					Version string           `json:"version"`
					OCSF    string           `json:"ocsf"`
					Private []string         `json:"personal_fields"`
					Events  []catalogueEntry `json:"events"`
				}{logging.CatalogueVersion, logging.SchemaVersion, logging.PrivateFields(), out})
			}
			t := env.Table("CODE", "SEVERITY", "OCSF", "RECORDED WHEN")
			for _, e := range all {
				t.Row(e.Code, e.Severity, e.Type(), e.When)
			}
			return t.Flush()
		},
	}
}
