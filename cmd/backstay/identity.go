// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
)

// birth is what the factory station records about a device.
type birth struct {
	ID       string `json:"id"`        // device id, derived from the key
	SPKI     string `json:"spki"`      // public birth key, base64 of its DER form
	Serial   string `json:"serial"`    // as read from the hardware, "" when there is none
	KeyClass string `json:"key_class"` // where the private key is
}

func (d *device) identityCommand() *cli.Command {
	return &cli.Command{
		Name: "identity", Short: "show who this device is, and get or renew its certificate",
		Sub: []*cli.Command{
			d.identityInit(),
			d.identityCall("show", "show device id, keys and certificate", "", control.MethodIdentityShow),
			d.identityCall("enroll", "ask the enrolment server for a certificate now",
				"Uses the birth key, so it also works after the certificate ran out or was taken back.", control.MethodIdentityEnroll),
			d.identityCall("renew", "renew the certificate now, with a new key",
				"The agent does this by itself at two thirds of the certificate's life.", control.MethodIdentityRenew),
		},
	}
}

func (d *device) identityInit() *cli.Command {
	return &cli.Command{
		Name: "init", Short: "factory step: make the birth key once, and print what to record about this device",
		Long: `Runs without the agent, on the device, as its user. The first call makes the birth key; every later one prints the same
record and changes nothing. With --json, the record is one line of the enrolment authority's birth list:

  backstay --json identity init > birth.json
  backstayctl ca allow birth.json`,
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			cfg, err := d.load()
			if err != nil {
				return err
			}
			b, err := d.born(ctx, cfg)
			if err != nil {
				return err
			}
			if env.JSON {
				return env.PrintJSON("backstay.birth/1", b)
			}
			t := env.Table()
			t.Row("device", b.ID)
			t.Row("serial", or(b.Serial, "unknown"))
			t.Row("key in", b.KeyClass)
			t.Row("spki", b.SPKI)
			return t.Flush()
		},
	}
}

// identityCall is a command whose answer is the identity afterwards.
func (d *device) identityCall(name, short, long, method string) *cli.Command {
	return &cli.Command{
		Name: name, Short: short, Long: long,
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			id, err := ask[control.Identity](ctx, d, method, nil)
			if err != nil {
				return err
			}
			return printIdentity(env, id)
		},
	}
}

func printIdentity(env *cli.Env, id control.Identity) error {
	if env.JSON {
		return env.PrintJSON("backstay.identity/1", id)
	}
	t := env.Table()
	t.Row("device", or(id.DeviceID, "no identity yet"))
	t.Row("product", or(id.Product, "-"), id.Compatible)
	t.Row("serial", or(id.Serial, "unknown"))
	t.Row("key in", or(id.KeyClass, "nothing"))
	if !id.Enrolled {
		t.Row("certificate", "none: not enrolled")
	} else {
		c := id.Certificate
		t.Row("certificate", c.Serial)
		t.Row("issued by", c.Issuer)
		t.Row("valid", when(c.NotBefore)+" to "+when(c.NotAfter))
		t.Row("renewed", when(c.RenewAt))
	}
	if id.Problem != "" {
		t.Row("problem", id.Problem)
	}
	return t.Flush()
}
