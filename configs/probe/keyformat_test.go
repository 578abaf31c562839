// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs/probe"
)

// keys are private keys in DER, by format.
func keys(t testing.TB) map[string][]byte {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	out := map[string][]byte{"PKCS#1": x509.MarshalPKCS1PrivateKey(rsaKey)}
	for name, k := range map[string]any{"PKCS#8 ec": ec, "PKCS#8 ed25519": ed, "PKCS#8 rsa": rsaKey} {
		out[name], err = x509.MarshalPKCS8PrivateKey(k)
		must(t, err)
	}
	out["SEC 1"], err = x509.MarshalECPrivateKey(ec)
	must(t, err)
	return out
}

func pemOf(label string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
}

func selfSigned(t testing.TB, edit func(*x509.Certificate)) []byte {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "device"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if edit != nil {
		edit(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	must(t, err)
	return der
}

func javaStore(tags ...byte) string {
	b := []byte{0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, byte(len(tags))}
	for _, tag := range tags {
		b = append(b, 0, 0, 0, tag, 0, 3)
		b = append(b, "abc12345678"...)
		b = append(b, 0, 5)
		b = append(b, "X.509\x00\x00\x00\x04cert"...)
	}
	return string(b)
}

func TestPrivateKeysInEveryForm(t *testing.T) {
	der := keys(t)
	p8 := pemOf("PRIVATE KEY", der["PKCS#8 rsa"])
	wg := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("wg"), 16))
	openssh := base64.StdEncoding.EncodeToString([]byte("openssh-key-v1\x00\x00\x00\x00\x04none\x00\x00\x00\x04none\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x33"))
	escaped := strings.ReplaceAll(p8, "\n", `\n`)
	cut := strings.Index(p8, "\n") // the marker line ends there
	at := func(offset int) string { return strings.Repeat("\x00", offset) + p8 }
	found := map[string]string{
		"pem": p8, "pem sec1": pemOf("EC PRIVATE KEY", der["SEC 1"]), "pem pkcs1": pemOf("RSA PRIVATE KEY", der["PKCS#1"]), "pem ed25519": pemOf("PRIVATE KEY", der["PKCS#8 ed25519"]),
		"crlf": strings.ReplaceAll(p8, "\n", "\r\n"), "in json": `{"cert":null,"key":"` + escaped + `"}`, "in json twice": `{"a":"{\"key\":\"` + strings.ReplaceAll(p8, "\n", `\\n`) + `\"}"}`,
		"in a shell string": "KEY='" + p8 + "'\n", "in c": `"-----BEGIN PRIVATE KEY-----\n"` + "\n\"" + strings.Join(strings.Split(p8, "\n")[1:5], "\\n\"\n\"") + `\n"`,
		"yaml": "key: |\n    " + strings.ReplaceAll(p8, "\n", "\n    "), "header": strings.Replace(p8, "\n", "\nComment: mine\n\n", 1), "behind another": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END" + p8,
		"openssh": "-----BEGIN OPENSSH PRIVATE KEY-----\n" + openssh + "\n", "at the end of a piece": at(128<<10 - cut - 20), "over the end of a piece": at(128<<10 - 6), "far behind": at(3<<20 + 17),
		"wireguard": "[Interface]\nPrivateKey = " + wg + "\nAddress = 10.0.0.1\n", "wireguard uci": "config interface wg0\n\toption proto wireguard\n\toption private_key '" + wg + "'\n", "network manager": "[wireguard]\nprivate-key=" + wg + "\n",
		"openvpn": "-----BEGIN OpenVPN Static key V1-----\n" + strings.Repeat("6acef03f62675b4b1bbd03e53b187727\n", 16), "putty": "PuTTY-User-Key-File-2: ssh-rsa\nEncryption: none\nComment: x\n", "age": "# created\nAGE-SECRET-KEY-1" + strings.Repeat("Q", 58) + "\n",
		"java": javaStore(2, 1), "jceks": "\xce\xce\xce\xce" + javaStore(3)[4:],
	}
	for name, d := range der {
		found["der "+name] = string(d)
	}
	clean := map[string]string{
		"certificate": pemOf("CERTIFICATE", der["PKCS#8 ec"]), "public": pemOf("PUBLIC KEY", der["PKCS#8 ec"]), "der certificate": string(selfSigned(t, nil)), "grep": "#!/bin/sh\ngrep -q 'BEGIN RSA PRIVATE KEY-----' $1 && exit 1\n",
		"marker alone": "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n and more text so that it is long enough\n", "marker and a placeholder": "-----BEGIN PRIVATE KEY-----\n<paste the key of the device here, in base64, all of it>\n-----END PRIVATE KEY-----\n",
		"marker and dots": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA...\n-----END RSA PRIVATE KEY-----\n", "marker and letters": "-----BEGIN PRIVATE KEY-----\n" + strings.Repeat("x", 70) + "\n",
		"encrypted": pemOf("ENCRYPTED PRIVATE KEY", der["PKCS#8 rsa"]), "encrypted pkcs1": strings.Replace(pemOf("RSA PRIVATE KEY", der["PKCS#1"]), "\n", "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n", 1),
		"openssh with a passphrase": "-----BEGIN OPENSSH PRIVATE KEY-----\n" + base64.StdEncoding.EncodeToString([]byte("openssh-key-v1\x00\x00\x00\x00\x0aaes256-ctr\x00\x00\x00\x06bcrypt\x00\x00\x00\x18")) + "\n",
		"wireguard public":          "PublicKey = " + wg + "\nPresharedKeyFile = /x\n", "wireguard comment": "# PrivateKey = " + wg + "\n", "wireguard placeholder": "PrivateKey = <insert the private key of this device here........>\n", "wireguard file": "PrivateKeyFile=/etc/systemd/network/wg0.key-of-this-device-and-more\n",
		"wireguard zero": "PrivateKey = " + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n", "java trust": javaStore(2, 2, 2), "java cut": javaStore(2)[:30] + "  ", "putty encrypted": "PuTTY-User-Key-File-2: ssh-rsa\nEncryption: aes256-cbc\nComment: x\n",
		"der cut": string(der["PKCS#1"][:200]), "der public": "\x30\x4a\x02\x43" + strings.Repeat("\x01", 67) + "\x02\x03\x01\x00\x01", "text that starts like der": "0" + strings.Repeat("abc ", 40), "openvpn marker": "-----BEGIN OpenVPN Static key V1-----\n the key of this device comes here\n",
	}
	run := func(name, text string) probe.Verdict {
		return newCheck(t, "secret", "/", `{"find":["key"]}`).Check(context.Background(), host(t, tree(t, files{"srv/" + strings.ReplaceAll(name, " ", "-"): text})))
	}
	for name, text := range found {
		if v := run(name, text); v.Result != probe.Fail {
			t.Errorf("%s: %s", name, v.Result)
		}
	}
	for name, text := range clean {
		if v := run(name, text); v.Result != probe.Pass || len(v.Inspected) == 0 {
			t.Errorf("%s: %s", name, brief(v))
		}
	}
}

func TestKeysThatEverybodyHasAreNoFinding(t *testing.T) {
	k := pemOf("PRIVATE KEY", keys(t)["PKCS#8 ec"])
	dir := tree(t, files{"usr/lib/libgnutls.so.30.1": k, "usr/lib/libmbedcrypto.so.7": k, "usr/lib/python3/test/certdata/k.pem": k, "usr/share/app/tests/k.pem": k, "opt/app/k.conf": "nothing here, nothing to be seen at all"})
	if v := newCheck(t, "secret", "/", `{"find":["key"]}`).Check(context.Background(), host(t, dir)); v.Result != probe.Pass {
		t.Error(brief(v))
	}
	must(t, os.MkdirAll(filepath.Join(dir, "opt/app/test"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "opt/app/test/k.pem"), []byte(k), 0o644))
	if v := newCheck(t, "secret", "/", `{"find":["key"]}`).Check(context.Background(), host(t, dir)); v.Result != probe.Fail {
		t.Error("a key of the product in a directory called test is left out")
	}
}

// What OpenSSL writes is what devices ship.
func TestKeysThatOpenSSLWrites(t *testing.T) {
	tool, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("package openssl is not installed")
	}
	dir := t.TempDir()
	run := func(args ...string) {
		cmd := exec.Command(tool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "plain", "-out", "crt", "-subj", "/CN=x", "-days", "1")
	run("pkcs8", "-topk8", "-in", "plain", "-outform", "DER", "-out", "p8enc", "-passout", "pass:x")
	run("pkcs8", "-topk8", "-in", "plain", "-outform", "DER", "-nocrypt", "-out", "p8")
	run("rsa", "-in", "plain", "-traditional", "-outform", "DER", "-out", "p1")
	run("rsa", "-in", "plain", "-traditional", "-aes128", "-passout", "pass:x", "-out", "p1enc")
	run("ecparam", "-name", "secp256k1", "-genkey", "-noout", "-outform", "DER", "-out", "ec")
	run("genpkey", "-algorithm", "ed448", "-outform", "DER", "-out", "ed448")
	run("pkcs12", "-export", "-inkey", "plain", "-in", "crt", "-out", "p12", "-passout", "pass:x")
	run("pkcs12", "-export", "-nokeys", "-in", "crt", "-out", "p12trust", "-passout", "pass:x")
	run("req", "-new", "-key", "plain", "-outform", "DER", "-out", "csr", "-subj", "/CN=x")
	run("rsa", "-in", "plain", "-pubout", "-outform", "DER", "-out", "pub")
	run("x509", "-in", "crt", "-outform", "DER", "-out", "crtder")
	v := newCheck(t, "secret", "/", `{"find":["key"]}`).Check(context.Background(), host(t, dir))
	var got []string
	for _, it := range v.Items {
		got = append(got, it.Subject)
	}
	if want := "/ec /ed448 /p1 /p12 /p8 /plain"; strings.Join(got, " ") != want {
		t.Errorf("found %q, want %s", got, want)
	}
}
