// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/cmd/internal/cli"
)

var update = flag.Bool("update", false, "rewrite golden files")

// golden compares got with a file, or writes the file under -update.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (write it with -update)", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is out of date, run `go test -update` here\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

// TestExitDocs keeps the documentation of the exit codes equal to the comments in exit.go.
func TestExitDocs(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "exit.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var code, doc strings.Builder
	code.WriteString("// SPDX-License-Identifier: Apache-2.0\n\n// Code generated from the comments in exit.go by `go generate`; DO NOT EDIT.\n\n" +
		"package cli\n\n// Meaning is what a code says, as one sentence without a full stop.\nfunc (e Exit) Meaning() string {\nswitch e {\n")
	doc.WriteString("<!-- Generated from cmd/internal/cli/exit.go; do not edit. -->\n\n# Exit codes\n\n" +
		"`backstay` and `backstayctl` end with one of these codes. Scripts may rely on them: a code never changes its meaning.\n\n| code | class | meaning |\n|--:|---|---|\n")
	n := 0
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			v := spec.(*ast.ValueSpec)
			name, value := v.Names[0].Name, v.Values[0].(*ast.BasicLit).Value
			text, ok := strings.CutPrefix(strings.Join(strings.Fields(v.Doc.Text()), " "), name+": ")
			if !ok {
				t.Fatalf("the comment of %s must begin with its name and a colon", name)
			}
			exit := cli.Exits()[n]
			if fmt.Sprint(int(exit)) != value {
				t.Fatalf("Exits()[%d] is %d, exit.go says %s = %s", n, exit, name, value)
			}
			fmt.Fprintf(&code, "case %s:\nreturn %q\n", name, text)
			fmt.Fprintf(&doc, "| %s | `%s` | %s |\n", value, exit.Class(), text)
			n++
		}
	}
	if n != len(cli.Exits()) {
		t.Errorf("exit.go has %d codes, Exits() has %d", n, len(cli.Exits()))
	}
	code.WriteString("}\nreturn \"unknown code\"\n}\n")
	src, err := format.Source([]byte(code.String()))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "exitdoc.go", src)
	golden(t, filepath.Join("..", "..", "..", "docs", "exit-codes.md"), []byte(doc.String()))
}
