// SPDX-License-Identifier: Apache-2.0

package keys_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/keys"
)

// board is a root directory with hardware identifiers in it.
func board(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func bound(t *testing.T, serial string) string {
	return board(t, map[string]string{"sys/firmware/devicetree/base/serial-number": serial + "\x00"})
}

func store(t *testing.T, dir, root string) *keys.Files {
	t.Helper()
	f, err := keys.File(dir, keys.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func make1(t *testing.T, f *keys.Files, slot identity.Slot) identity.Key {
	t.Helper()
	k, err := f.Generate(slot)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeyLives(t *testing.T) {
	for _, c := range []struct {
		root  string
		class identity.Class
	}{{bound(t, "100000003d1e2f0a"), identity.ClassFileBound}, {t.TempDir(), identity.ClassFilePlain}} {
		dir := filepath.Join(t.TempDir(), "keys")
		f := store(t, dir, c.root)
		if f.Class() != c.class {
			t.Fatalf("class %s, want %s", f.Class(), c.class)
		}
		if _, err := f.Open(identity.SlotA); !errors.Is(err, identity.ErrNoKey) {
			t.Fatalf("empty slot: %v", err)
		}
		k := make1(t, f, identity.SlotA)
		if _, err := f.Generate(identity.SlotA); !errors.Is(err, identity.ErrKeyExists) {
			t.Fatalf("second key in a slot: %v", err)
		}
		again, err := store(t, dir, c.root).Open(identity.SlotA)
		if err != nil || !identity.SamePublic(again.Public(), k.Public()) || again.Class() != c.class {
			t.Fatalf("after a restart: %v", err)
		}
		digest := sha256.Sum256([]byte("x"))
		sig, err := again.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil || !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], sig) {
			t.Fatal("signature", err)
		}
		if _, err := again.Sign(rand.Reader, digest[:], crypto.SHA384); !errors.Is(err, identity.ErrRefused) {
			t.Errorf("other digest: %v", err)
		}
		info, err := os.Stat(filepath.Join(dir, "ldevid-a.key"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v %v", info.Mode(), err)
		}
		if info, err = os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("directory mode %v %v", info.Mode(), err)
		}
		if err := errors.Join(f.Destroy(identity.SlotA), f.Destroy(identity.SlotA)); err != nil {
			t.Error(err)
		}
		if _, err := f.Open(identity.SlotA); !errors.Is(err, identity.ErrNoKey) {
			t.Errorf("destroyed key: %v", err)
		}
	}
}

func TestBoundFileHidesTheKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	make1(t, store(t, dir, bound(t, "100000003d1e2f0a")), identity.SlotBirth)
	b, err := os.ReadFile(filepath.Join(dir, "idevid.key"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Class identity.Class
		Key   []byte
	}
	if err := json.Unmarshal(b, &file); err != nil || file.Class != identity.ClassFileBound {
		t.Fatal(err, file.Class)
	}
	if _, err := x509.ParsePKCS8PrivateKey(file.Key); err == nil || bytes.Contains(b, []byte("100000003d1e2f0a")) {
		t.Error("the key or the identifier can be read from the file")
	}
}

// TestCopiedCard: the directory of one board in another.
func TestCopiedCard(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	make1(t, store(t, dir, bound(t, "100000003d1e2f0a")), identity.SlotBirth)
	for name, root := range map[string]string{"another board": bound(t, "100000003d1e2f0b"), "no identifier": t.TempDir()} {
		if _, err := store(t, dir, root).Open(identity.SlotBirth); !errors.Is(err, identity.ErrOtherBoard) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// An identifier that becomes readable later does not lock the key away.
	more := board(t, map[string]string{"sys/firmware/devicetree/base/serial-number": "100000003d1e2f0a", "sys/devices/soc0/serial_number": "77AB12"})
	if _, err := store(t, dir, more).Open(identity.SlotBirth); err != nil {
		t.Error(err)
	}
}

func TestAlteredFile(t *testing.T) {
	root := bound(t, "100000003d1e2f0a")
	dir := filepath.Join(t.TempDir(), "keys")
	f := store(t, dir, root)
	make1(t, f, identity.SlotA)
	path := filepath.Join(dir, "ldevid-a.key")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(name string, v any) []byte {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		if m[name] = v; v == nil {
			delete(m, name)
		}
		b, _ := json.Marshal(m)
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"empty": {nil, identity.ErrDamagedKey}, "half": {good[:len(good)/2], identity.ErrDamagedKey},
		"twice": {append(bytes.Clone(good), good...), identity.ErrDamagedKey}, "long": {make([]byte, 5000), identity.ErrDamagedKey},
		"other slot": {edit("slot", "ldevid-b"), identity.ErrDamagedKey}, "version": {edit("backstay_key", 2), identity.ErrDamagedKey},
		"extra": {edit("x", 1), identity.ErrDamagedKey}, "no salt": {edit("salt", nil), identity.ErrDamagedKey},
		"no kinds": {edit("kinds", nil), identity.ErrDamagedKey}, "class tpm": {edit("class", "tpm"), identity.ErrDamagedKey},
		"date changed": {edit("made", 1), identity.ErrOtherBoard}, "salt changed": {edit("salt", make([]byte, 32)), identity.ErrOtherBoard},
		"key changed": {edit("key", make([]byte, 180)), identity.ErrOtherBoard}, "short key": {edit("key", []byte("x")), identity.ErrOtherBoard},
	} {
		if err := os.WriteFile(path, c.b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Open(identity.SlotA); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// plain is a key file of class file-plain around any PKCS#8.
func plain(der []byte) []byte {
	b, _ := json.Marshal(map[string]any{"backstay_key": 1, "slot": "ldevid-a", "class": "file-plain", "made": 1, "key": der})
	return b
}

func TestOtherKindsOfKey(t *testing.T) {
	f := store(t, filepath.Join(t.TempDir(), "keys"), t.TempDir())
	make1(t, f, identity.SlotB)
	dir := filepath.Join(t.TempDir(), "keys")
	f = store(t, dir, t.TempDir())
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	pkcs8 := func(k any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	good := pkcs8(p256)
	for name, b := range map[string][]byte{
		"P-384": plain(pkcs8(p384)), "RSA": plain(pkcs8(rsaKey)), "Ed25519": plain(pkcs8(ed)), "truncated": plain(good[:40]),
		"PEM":          pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: good}),
		"two PEM":      bytes.Repeat(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: good}), 2),
		"PEM as bytes": plain(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: good})),
		"encrypted":    plain(append([]byte{0x30, 0x82}, good...)),
	} {
		if err := os.WriteFile(filepath.Join(dir, "ldevid-a.key"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Open(identity.SlotA); !errors.Is(err, identity.ErrDamagedKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "ldevid-a.key"), plain(good), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Open(identity.SlotA); err != nil {
		t.Error(err)
	}
}

func TestUnsafeFiles(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"world-readable": func(p string) error { return os.Chmod(p, 0o604) },
		"group-readable": func(p string) error { return os.Chmod(p, 0o640) },
		"symlink":        func(p string) error { return errors.Join(os.Rename(p, p+".real"), os.Symlink(p+".real", p)) },
		"hard link":      func(p string) error { return os.Link(p, p+".other") },
		"fifo":           func(p string) error { return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o600)) },
		"directory":      func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			f := store(t, dir, t.TempDir())
			make1(t, f, identity.SlotA)
			if err := spoil(filepath.Join(dir, "ldevid-a.key")); err != nil {
				t.Fatal(err)
			}
			_, err := f.Open(identity.SlotA)
			var r *identity.Refusal
			if !errors.As(err, &r) || r.Code != "unsafe-key-file" || !errors.Is(err, identity.ErrSetup) {
				t.Errorf("opened: %v", err)
			}
			if _, err := f.Generate(identity.SlotA); !errors.Is(err, identity.ErrKeyExists) {
				t.Errorf("made a key over it: %v", err)
			}
		})
	}
}

func TestUnsafeDirectories(t *testing.T) {
	for name, set := range map[string]func(dir string) error{
		"others may enter": func(d string) error { return errors.Join(os.Mkdir(d, 0o700), os.Chmod(d, 0o701)) },
		"symlink":          func(d string) error { return os.Symlink(t.TempDir(), d) },
		"file":             func(d string) error { return os.WriteFile(d, nil, 0o600) },
	} {
		dir := filepath.Join(t.TempDir(), "keys")
		if err := set(dir); err != nil {
			t.Fatal(err)
		}
		_, err := keys.File(dir, keys.Options{Root: t.TempDir()})
		var r *identity.Refusal
		if !errors.As(err, &r) || r.Code != "unsafe-key-directory" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := keys.File(filepath.Join(t.TempDir(), "missing", "keys"), keys.Options{}); err == nil {
		t.Error("made a whole path")
	}
	if _, err := store(t, filepath.Join(t.TempDir(), "k"), t.TempDir()).Open("../x"); err == nil {
		t.Error("a slot leads out of the directory")
	}
}

func TestNoKeyWithoutEntropy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	f := store(t, dir, t.TempDir())
	f.SetReady(func() error { return identity.ErrEntropy })
	if _, err := f.Generate(identity.SlotBirth); !errors.Is(err, identity.ErrEntropy) {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// TestCutWhileWriting stops at each durable step of making and destroying a key. Afterwards the slot holds a whole key or none.
func TestCutWhileWriting(t *testing.T) {
	cut := errors.New("power cut")
	for _, at := range []string{"write", "rename", "sync", "remove"} {
		dir, root := filepath.Join(t.TempDir(), "keys"), bound(t, "100000003d1e2f0a")
		f := store(t, dir, root)
		f.SetFault(func(step, _ string) error {
			if step == at {
				return fmt.Errorf("%w at %s", cut, step)
			}
			return nil
		})
		_, err := f.Generate(identity.SlotA)
		if at == "remove" {
			err = f.Destroy(identity.SlotA)
		}
		if !errors.Is(err, cut) {
			t.Fatalf("%s: %v", at, err)
		}
		f = store(t, dir, root)
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range left {
			if strings.HasSuffix(e.Name(), ".new") {
				t.Errorf("%s: %s is left", at, e.Name())
			}
		}
		if _, err := f.Open(identity.SlotA); err != nil && !errors.Is(err, identity.ErrNoKey) {
			t.Errorf("%s: %v", at, err)
		}
		if _, err := f.Generate(identity.SlotA); err != nil && !errors.Is(err, identity.ErrKeyExists) {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// TestFullDisk runs itself under a file size limit, which makes writes come up short the way a full disk does.
func TestFullDisk(t *testing.T) {
	if os.Getenv("BACKSTAY_TEST_EMULATED") == "1" {
		t.Skip("the emulated program cannot start itself")
	}
	dir := os.Getenv("BACKSTAY_TEST_FULL_DISK")
	if dir == "" {
		dir = filepath.Join(t.TempDir(), "keys")
		cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$")
		cmd.Env = append(os.Environ(), "BACKSTAY_TEST_FULL_DISK="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		make1(t, store(t, dir, t.TempDir()), identity.SlotA)
		return
	}
	f := store(t, dir, t.TempDir())
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 100, Max: 100}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Generate(identity.SlotA); err == nil {
		t.Fatal("no error")
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestMadeWithTrustedTime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	at := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	f, err := keys.File(dir, keys.Options{Root: t.TempDir(), Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	make1(t, f, identity.SlotA)
	b, err := os.ReadFile(filepath.Join(dir, "ldevid-a.key"))
	if err != nil || !bytes.Contains(b, fmt.Appendf(nil, `"made":%d`, at.Unix())) {
		t.Errorf("%s %v", b, err)
	}
}

func FuzzKeyFile(f *testing.F) {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, _ := x509.MarshalPKCS8PrivateKey(p256)
	f.Add(plain(der))
	f.Add([]byte(`{"backstay_key":1,"slot":"ldevid-a","class":"file-bound","made":1,"kinds":["dt-serial"],"salt":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","key":"AAAA"}`))
	f.Add([]byte("{}"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		priv, class, err := keys.Unseal(b, identity.SlotA, []keys.ID{{Kind: "dt-serial", Value: "abcd", Stable: true}})
		if err != nil {
			if !errors.Is(err, identity.ErrDamagedKey) && !errors.Is(err, identity.ErrOtherBoard) {
				t.Errorf("error without a class: %v", err)
			}
			return
		}
		if priv.Curve != elliptic.P256() || !class.Known() {
			t.Error("accepted a key that is none")
		}
	})
}
