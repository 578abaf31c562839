// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/ca"
)

// caCommand is the enrolment authority; `backstayctl serve` is its server.
func caCommand() *cli.Command {
	return &cli.Command{
		Name: "ca", Short: "decide which devices belong to the fleet",
		Sub: []*cli.Command{caInitCommand(), caAllowCommand(), caRevokeCommand(), caListCommand(), caServerCommand()},
	}
}

func caFlag(fs *flag.FlagSet, dir *string) {
	fs.StringVar(dir, "ca", "ca", "`directory` of the enrolment authority")
}

func caInitCommand() *cli.Command {
	var dir string
	var o ca.Options
	return &cli.Command{
		Name: "init", Short: "create the authority: a root to put into images, and the key that certifies devices",
		Long: `root.crt goes into every device image (server.ca_file). Move root.key to a safe place afterwards: daily work needs only
issuing.key. Whoever can write to the directory decides which devices belong to the fleet.`,
		Flags: func(fs *flag.FlagSet) {
			caFlag(fs, &dir)
			fs.StringVar(&o.Name, "name", "backstay", "`name` of the owner, in the certificates")
			fs.DurationVar(&o.DeviceLife, "device-life", ca.DefaultLife, "how `long` a device certificate lives")
		},
		Run: func(_ context.Context, env *cli.Env, _ []string) error {
			c, err := ca.Create(dir, o)
			if err != nil {
				return err
			}
			if env.JSON {
				return env.PrintJSON("backstayctl.ca.init/1", struct {
					Dir        string    `json:"dir"`
					Name       string    `json:"name"`
					Root       string    `json:"root"`
					RootEnds   time.Time `json:"root_ends"`
					DeviceLife string    `json:"device_life"`
				}{dir, c.Name(), filepath.Join(dir, "root.crt"), c.Root().NotAfter.UTC(), c.DeviceLife().String()})
			}
			t := env.Table()
			t.Row("authority", c.Name())
			t.Row("root", filepath.Join(dir, "root.crt"), "for device images; ends "+c.Root().NotAfter.Format(time.DateOnly))
			t.Row("offline", filepath.Join(dir, "root.key"), "move this file to a safe place")
			t.Row("devices", fmt.Sprintf("certificates live %.0f days", c.DeviceLife().Hours()/24))
			return t.Flush()
		},
	}
}

func caAllowCommand() *cli.Command {
	var dir, serial, note string
	var again bool
	return &cli.Command{
		Name: "allow", Args: "DEVICE...", Short: "put devices on the birth list, so that they may enrol",
		Long: `DEVICE is a device id, or a file: the record that "backstay --json identity init" prints on the device, its birth
certificate or its public key (PEM). The id is the hash of the birth key, so with a file it is computed and not believed.`,
		Flags: func(fs *flag.FlagSet) {
			caFlag(fs, &dir)
			fs.StringVar(&serial, "serial", "", "serial `number` on the label; default: what the record says")
			fs.StringVar(&note, "note", "", "any `text`")
			fs.BoolVar(&again, "again", false, "take a revocation back")
		},
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			devices, err := readDevices(args)
			if err != nil {
				return err
			}
			if serial != "" && len(devices) > 1 {
				return cli.Usagef("--serial is for one device, %d are given", len(devices))
			}
			return changeDevices(env, dir, devices, "allowed", func(c *ca.CA, d ca.Device) error {
				if d.Note = note; serial != "" {
					d.Serial = serial
				}
				if again {
					if err := c.Reinstate(d.ID); err != nil {
						return err
					}
				}
				return c.Allow(d)
			})
		},
	}
}

func caRevokeCommand() *cli.Command {
	var dir, reason string
	return &cli.Command{
		Name: "revoke", Args: "DEVICE...", Short: "turn devices away: from now on every server of the fleet refuses them",
		Long: "DEVICE is as for `ca allow`. The devices keep working, offline; nothing on them is destroyed.",
		Flags: func(fs *flag.FlagSet) {
			caFlag(fs, &dir)
			fs.StringVar(&reason, "reason", "", "why, as `text` for whoever reads the list")
		},
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			devices, err := readDevices(args)
			if err != nil {
				return err
			}
			return changeDevices(env, dir, devices, "revoked", func(c *ca.CA, d ca.Device) error { return c.Revoke(d.ID, reason) })
		},
	}
}

// changeDevices makes one change for each device and prints the devices changed.
func changeDevices(env *cli.Env, dir string, devices []ca.Device, verb string, f func(*ca.CA, ca.Device) error) error {
	c, err := ca.Load(dir, ca.Options{})
	if err != nil {
		return err
	}
	ids := []string{}
	for _, d := range devices {
		if err := f(c, d); err != nil {
			return err
		}
		if ids = append(ids, d.ID); !env.JSON {
			fmt.Fprintf(env.Stdout, "%s  %s\n", d.ID, verb)
		}
	}
	if env.JSON {
		return env.PrintJSON("backstayctl.ca."+verb+"/1", map[string]any{verb: ids})
	}
	return nil
}

// listed is a line of `ca list`.
type listed struct {
	ca.Device
	State string     `json:"state"` // "waiting", "enrolled", "expired", "revoked"
	Last  *ca.Issued `json:"certificate,omitempty"`
}

func caListCommand() *cli.Command {
	var dir string
	return &cli.Command{
		Name: "list", Short: "show the birth list, and the newest certificate of each device",
		Flags: func(fs *flag.FlagSet) { caFlag(fs, &dir) },
		Run: func(_ context.Context, env *cli.Env, _ []string) error {
			c, err := ca.Load(dir, ca.Options{})
			if err != nil {
				return err
			}
			devices, err := c.List()
			if err != nil {
				return err
			}
			rows := []listed{}
			for _, d := range devices {
				rows = append(rows, describe(c, d, time.Now()))
			}
			if env.JSON {
				return env.PrintJSON("backstayctl.ca.list/1", rows)
			}
			t := env.Table("DEVICE", "SERIAL", "STATE", "UNTIL", "KEY", "NOTE")
			for _, r := range rows {
				until, class, note := "-", "-", r.Note
				if r.Last != nil {
					until, class = r.Last.NotAfter.Format(time.DateOnly), string(r.Last.Class)
				}
				if r.State == "revoked" {
					until, note = r.Revoked.Format(time.DateOnly), r.Reason
				}
				t.Row(r.ID, dash(r.Serial), r.State, until, dash(class), note)
			}
			return t.Flush()
		},
	}
}

func describe(c *ca.CA, d ca.Device, now time.Time) listed {
	row := listed{Device: d, State: "waiting"}
	if last, ok := c.Last(d.ID); ok {
		row.Last, row.State = &last, "enrolled"
		if now.After(last.NotAfter) {
			row.State = "expired"
		}
	}
	if !d.Revoked.IsZero() {
		row.State = "revoked"
	}
	return row
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func caServerCommand() *cli.Command {
	var dir, out string
	var client bool
	return &cli.Command{
		Name: "server", Args: "NAME...", Short: "issue a certificate for a server that is not ours, a broker or a web server",
		Long: `Writes OUT.crt (the certificate, then the issuing certificate) and OUT.key. NAME is a host name or an IP address, as devices
use it. "backstayctl serve" needs none of this: it issues its own. With --client the certificate is for a program that connects to
such a broker, and NAME is its user name there: "backstayctl ca server --client --out collector collector".`,
		Flags: func(fs *flag.FlagSet) {
			caFlag(fs, &dir)
			fs.StringVar(&out, "out", "server", "`path` of the two files, without the ending")
			fs.BoolVar(&client, "client", false, "for a client of somebody else's broker, not for a server")
		},
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			c, err := ca.Load(dir, ca.Options{})
			if err != nil {
				return err
			}
			issue := c.IssueServer
			if client {
				issue = func(names []string) (tls.Certificate, error) { return c.IssueClient(names[0]) }
			}
			cert, err := issue(args)
			if err != nil {
				return err
			}
			key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
			if err != nil {
				return fmt.Errorf("write %s.key: %w", out, err)
			}
			var chain bytes.Buffer
			for _, der := range cert.Certificate {
				if err := pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
					return fmt.Errorf("write %s.crt: %w", out, err)
				}
			}
			if err := writeNew(out+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600); err != nil {
				return err
			}
			if err := writeNew(out+".crt", chain.Bytes(), 0o644); err != nil {
				return err
			}
			if env.JSON {
				return env.PrintJSON("backstayctl.ca.server/1", map[string]any{"certificate": out + ".crt", "key": out + ".key", "names": args, "not_after": cert.Leaf.NotAfter.UTC()})
			}
			fmt.Fprintf(env.Stdout, "%s.crt  ends %s\n%s.key\n", out, cert.Leaf.NotAfter.Format(time.DateOnly), out)
			return nil
		},
	}
}

// writeNew writes a file that must not exist.
func writeNew(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return &cli.Error{Exit: cli.ExitNotReady, Code: "exists", What: "write " + path, Why: "there is one already", Next: "name another with --out", Err: err}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// readDevices turns what was typed into devices. An id is taken as it is; everything else is a file.
func readDevices(args []string) ([]ca.Device, error) {
	var out []ca.Device
	for _, a := range args {
		if identity.ValidID(a) {
			out = append(out, ca.Device{ID: a})
			continue
		}
		d, err := readDevice(a)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// maxBirth bounds a record, in bytes.
const maxBirth = 64 << 10

func readDevice(path string) (ca.Device, error) {
	wrong := func(why string) (ca.Device, error) {
		return ca.Device{}, &cli.Error{Exit: cli.ExitUsage, Code: "not-a-device", What: "read device " + path, Why: why,
			Next: "give a device id (26 characters a-z, 2-7), or a file that `backstay --json identity init` wrote"}
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return wrong("it is no device id, and there is no such file")
	case err != nil:
		return ca.Device{}, err
	case info.Size() > maxBirth:
		return wrong("the file is too long")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return ca.Device{}, err
	}
	spki, claimed, serial, why := birthKey(b)
	if why != "" {
		return wrong(why)
	}
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return wrong("its public key cannot be read: " + err.Error())
	}
	id, err := identity.DeviceID(pub)
	if err != nil {
		return wrong(err.Error())
	}
	if claimed != "" && claimed != id {
		return ca.Device{}, &identity.Refusal{Code: "wrong-id", What: "read device " + path, Why: "it names device " + claimed + ", its key is of " + id}
	}
	return ca.Device{ID: id, Serial: serial}, nil
}

// birthKey finds the public key, and what is said about it, in any of the forms; why says what is wrong.
func birthKey(b []byte) (spki []byte, id, serial, why string) {
	if block, _ := pem.Decode(b); block != nil {
		switch block.Type {
		case "PUBLIC KEY":
			return block.Bytes, "", "", ""
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, "", "", err.Error()
			}
			return c.RawSubjectPublicKeyInfo, "", c.Subject.SerialNumber, ""
		}
		return nil, "", "", "a PEM block " + block.Type + " says nothing about a device"
	}
	var record struct {
		Schema string `json:"schema"`
		ID     string `json:"id"`
		SPKI   []byte `json:"spki"`
		Serial string `json:"serial"`
	}
	if err := json.Unmarshal(b, &record); err != nil || len(record.SPKI) == 0 {
		return nil, "", "", "the file is neither a birth record nor PEM"
	}
	return record.SPKI, record.ID, record.Serial, ""
}
