// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/backstay/backstay/identity/ca"
)

// static is an HTTPS server without client certificates, for everybody who has none.
type static struct {
	url string
	ca  string // PEM file
}

func serveStatic(dir string) (*static, error) {
	authority, err := ca.Create(filepath.Join(dir, "static-ca"), ca.Options{Name: "TEST bench static"})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	conf := authority.EnrolTLS("localhost", "127.0.0.1")
	conf.ClientAuth = tls.NoClientCert
	srv := &http.Server{Handler: http.FileServer(http.Dir(dir)), TLSConfig: conf}
	go srv.ServeTLS(l, "", "") //nolint:errcheck // ends with the program
	s := &static{url: fmt.Sprintf("https://localhost:%d/", l.Addr().(*net.TCPAddr).Port), ca: filepath.Join(dir, "static-ca.pem")}
	return s, os.WriteFile(s.ca, authority.RootPEM(), 0o600)
}

func missing(programs ...string) bool {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			fmt.Fprintf(os.Stderr, "bench-update: %s is not installed and is left out\n", p)
			return true
		}
	}
	return false
}

// plain copies and hashes what it has written, from a file and over TLS.
func (b *bench) plain(context.Context) ([]contender, error) {
	local := `dd if="$1" of="$2" bs=1M conv=fsync status=none && head -c "$3" "$2" | sha256sum`
	net := `curl -sS --cacert "$4" "$1" | dd of="$2" bs=1M iflag=fullblock conv=fsync status=none && head -c "$3" "$2" | sha256sum`
	out := []contender{{"dd + sha256sum", func(ctx context.Context, img image) (sample, error) {
		return command(ctx, b.dir, "sh", "-c", local, "sh", img.path, b.slotB.dev, fmt.Sprint(img.size))
	}}}
	if missing("curl") {
		return out, nil
	}
	return append(out, contender{"curl over TLS, dd + sha256sum", func(ctx context.Context, img image) (sample, error) {
		return command(ctx, b.dir, "sh", "-c", net, "sh", b.server.url+filepath.Base(img.path), b.slotB.dev, fmt.Sprint(img.size), b.server.ca)
	}}), nil
}

// signer makes a key and a certificate for RAUC and SWUpdate.
func (b *bench) signer(ctx context.Context) (key, cert string, err error) {
	key, cert = filepath.Join(b.dir, "signer.key"), filepath.Join(b.dir, "signer.crt")
	if _, err := os.Stat(cert); err == nil {
		return key, cert, nil
	}
	return key, cert, tool(ctx, b.dir, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "30",
		"-subj", "/CN=TEST bench", "-addext", "keyUsage=digitalSignature", "-addext", "extendedKeyUsage=emailProtection,codeSigning")
}

func tool(ctx context.Context, dir string, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", argv, err, out)
	}
	return nil
}

const raucConf = `[system]
compatible=bench
bootloader=noop
bundle-formats=plain
mountprefix=%[1]s/rauc-mount
statusfile=%[1]s/rauc-status
[keyring]
path=%[2]s
check-purpose=codesign
[slot.rootfs.0]
device=%[3]s
type=raw
bootname=A
[slot.rootfs.1]
device=%[4]s
type=raw
bootname=B
`

// raucRun starts the service on a bus of its own, as Debian's build needs it. The client waits for the service's name.
const raucRun = `export DBUS_STARTER_BUS_TYPE=session
rauc -c "$1" --override-boot-slot=A service & svc=$!
until dbus-send --session --print-reply --dest=de.pengutronix.rauc / org.freedesktop.DBus.Peer.Ping >/dev/null 2>&1; do sleep 0.01; done
rauc install "$2"; rc=$?
kill $svc; wait $svc
exit $rc`

func (b *bench) rauc(ctx context.Context) ([]contender, error) {
	if missing("rauc", "dbus-run-session", "dbus-send") {
		return nil, nil
	}
	key, cert, err := b.signer(ctx)
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(b.dir, "system.conf")
	if err := errors.Join(os.MkdirAll(filepath.Join(b.dir, "rauc-mount"), 0o755),
		os.WriteFile(conf, fmt.Appendf(nil, raucConf, b.dir, cert, b.slotA.dev, b.slotB.dev), 0o600)); err != nil {
		return nil, err
	}
	for _, img := range b.images {
		dir := filepath.Join(b.dir, "rauc-"+img.version)
		manifest := fmt.Appendf(nil, "[update]\ncompatible=bench\nversion=%s\n[bundle]\nformat=plain\n[image.rootfs]\nfilename=rootfs.img\n", img.version)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Link(img.path, filepath.Join(dir, "rootfs.img")),
			os.WriteFile(filepath.Join(dir, "manifest.raucm"), manifest, 0o600)); err != nil {
			return nil, err
		}
		if err := tool(ctx, b.dir, "rauc", "bundle", "--cert", cert, "--key", key, dir, dir+".raucb"); err != nil {
			return nil, err
		}
	}
	return []contender{{"RAUC, local file", func(ctx context.Context, img image) (sample, error) {
		return command(ctx, b.dir, "dbus-run-session", "--", "sh", "-c", raucRun, "sh", conf, filepath.Join(b.dir, "rauc-"+img.version+".raucb"))
	}}}, nil
}

const swDescription = `software = {
  version = "%s";
  hardware-compatibility: [ "1.0" ];
  images: ( { filename = "%s"; device = "%s"; type = "raw"; sha256 = "%x"; installed-directly = true; } );
}
`

// swPack signs the description and packs it with the image.
const swPack = `openssl cms -sign -in sw-description -out sw-description.sig -signer "$2" -inkey "$3" -outform DER -nosmimecap -binary
printf 'sw-description\nsw-description.sig\n%s\n' "$4" | cpio -o -L -H crc > "$1" 2>/dev/null`

func (b *bench) swupdate(ctx context.Context) ([]contender, error) {
	if missing("swupdate", "cpio") {
		return nil, nil
	}
	key, cert, err := b.signer(ctx)
	if err != nil {
		return nil, err
	}
	for _, img := range b.images {
		text := fmt.Appendf(nil, swDescription, img.version, filepath.Base(img.path), b.slotB.dev, img.sha256)
		if err := os.WriteFile(filepath.Join(b.dir, "sw-description"), text, 0o600); err != nil {
			return nil, err
		}
		if err := tool(ctx, b.dir, "sh", "-e", "-c", swPack, "sh", img.version+".swu", cert, key, filepath.Base(img.path)); err != nil {
			return nil, err
		}
	}
	base := []string{"swupdate", "-H", "bench:1.0", "-k", cert, "-M", "-m"}
	return []contender{{"SWUpdate, local file", func(ctx context.Context, img image) (sample, error) {
		return command(ctx, b.dir, append(base, "-i", img.version+".swu")...)
	}}, {"SWUpdate, over TLS", func(ctx context.Context, img image) (sample, error) {
		// It has no option for the roots of a server, libcurl takes them from here.
		return command(ctx, b.dir, append([]string{"env", "CURL_CA_BUNDLE=" + b.server.ca, "SSL_CERT_FILE=" + b.server.ca}, append(base,
			"-d", "-u "+b.server.url+img.version+".swu")...)...)
	}}}, nil
}

// rawModule is an update module that writes the stream to the device, the shortest way Mender has to a raw partition.
const rawModule = `#!/bin/sh
case $1 in
Download) cat "$(cat stream-next)" > %[1]s && sync %[1]s ;;
SupportsRollback) echo No ;;
NeedsArtifactReboot) echo No ;;
esac
`

// menderRun lays the directories that its configuration cannot move over those of the machine, in mounts of its own.
const menderRun = `mount --bind "$1/etc" /etc/mender; mount --bind "$1/share" /usr/share/mender
SSL_CERT_FILE=$3 exec mender --config "$1/mender.conf" --data "$1/data" --no-syslog install "$2"`

func (b *bench) mender(ctx context.Context) ([]contender, error) {
	if missing("mender", "mender-artifact", "unshare") {
		return nil, nil
	}
	dir := filepath.Join(b.dir, "mender")
	key, public := filepath.Join(b.dir, "mender.key"), filepath.Join(b.dir, "mender.pub")
	if err := errors.Join(tool(ctx, b.dir, "openssl", "genrsa", "-traditional", "-out", key, "3072"),
		tool(ctx, b.dir, "openssl", "rsa", "-in", key, "-pubout", "-out", public)); err != nil {
		return nil, err
	}
	conf := fmt.Appendf(nil, `{"ArtifactVerifyKey":%q,"DeviceTypeFile":%q,"ServerCertificate":%q}`, public, dir+"/device_type", b.server.ca)
	for name, text := range map[string]string{"mender.conf": string(conf), "device_type": "device_type=bench\n", "etc/artifact_info": "artifact_name=v1\n",
		"data/scripts/.keep": "", "share/modules/v3/rawdev": fmt.Sprintf(rawModule, b.slotB.dev), "share/identity/.keep": "", "share/inventory/.keep": ""} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			return nil, err
		}
	}
	for _, img := range b.images {
		if err := tool(ctx, b.dir, "mender-artifact", "write", "module-image", "-T", "rawdev", "-t", "bench", "-n", img.version, "-f", img.path,
			"-k", key, "-o", img.version+".mender", "--compression", "none"); err != nil {
			return nil, err
		}
	}
	run := func(ctx context.Context, from string) (sample, error) {
		if err := errors.Join(os.RemoveAll(dir+"/data"), os.MkdirAll(dir+"/data/scripts", 0o755)); err != nil {
			return sample{}, err
		}
		return command(ctx, b.dir, "unshare", "--mount", "sh", "-c", menderRun, "sh", dir, from, b.server.ca)
	}
	return []contender{{"Mender's client, local file", func(ctx context.Context, img image) (sample, error) {
		return run(ctx, img.version+".mender")
	}}, {"Mender's client, over TLS", func(ctx context.Context, img image) (sample, error) {
		return run(ctx, b.server.url+img.version+".mender")
	}}}, nil
}
