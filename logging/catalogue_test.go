// SPDX-License-Identifier: Apache-2.0

package logging_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/backstay/backstay/logging"
)

// capabilities are the sub-capabilities of SP 800-213A.
const capabilities = "CS:AEI CS:AUP CS:AWR CS:EIM CS:EVR CS:LCT CS:LSR CS:RDL CS:SRT DC:AUT DC:CTL DC:DSP DC:INT DC:PRV DI:AID DI:DAS DI:IMS DI:PID DP:CRY DP:KEY " +
	"DP:STO DP:STX DS:COM DS:DIN DS:EXE DS:ONB DS:OPS DS:RSC LA:ACF LA:AIM LA:AUN LA:AUZ LA:IFC LA:LDU LA:ROL LA:USE LA:XCN SU:APP SU:UPD"

func TestEveryRowIsExplained(t *testing.T) {
	for _, e := range logging.Catalogue() {
		if e.When == "" || e.By == "" || len(e.Refs) == 0 {
			t.Errorf("%s: when %q, by %q, refs %v", e.Code, e.When, e.By, e.Refs)
		}
		for _, r := range e.Refs {
			name, _, _ := strings.Cut(r, "(")
			if !slices.Contains(strings.Fields(capabilities), name) {
				t.Errorf("%s: %s is not of SP 800-213A", e.Code, r)
			}
		}
	}
}

// TestEveryCodeIsARowAndEveryRowIsUsed reads the sources of the whole product: a code that is not in the table is recorded as
// nothing in particular, and a row that nothing records is a promise in the catalogue.
func TestEveryCodeIsARowAndEveryRowIsUsed(t *testing.T) {
	if os.Getenv("BACKSTAY_TEST_EMULATED") != "" {
		t.Skip("reads the sources; runs on the build machine only")
	}
	used, emitted := codesInSources(t)
	for _, k := range logging.Kinds() {
		if !used[strings.TrimSuffix(k.Code, "*")] && !used[k.Code] {
			t.Errorf("%s: nothing in the tree records it", k.Code)
		}
	}
	for code, where := range emitted {
		// repo.* are events of the publisher's command, which has no log of this kind.
		if k := logging.Lookup(code); k.Code != code || k.Class == 0 && !strings.HasPrefix(code, "app.") && !strings.HasPrefix(code, "repo.") {
			t.Errorf("%s: %s is not in the table", where, code)
		}
	}
}

// codesInSources returns every text constant, and those that are the first argument of a function that records events.
func codesInSources(t *testing.T) (used map[string]bool, emitted map[string]string) {
	t.Helper()
	used, emitted = map[string]bool{}, map[string]string{}
	set := token.NewFileSet()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "testdata" || d.Name() == "third_party") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || path == filepath.Join("..", "logging", "ocsf.go") || path == filepath.Join("..", "logging", "catalogue.go") {
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if s, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					used[s] = true
				}
			case *ast.CallExpr:
				if code, ok := recorded(n); ok {
					emitted[code] = set.Position(n.Pos()).String()
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(emitted) < 40 {
		t.Fatalf("only %d codes found: this test does not see how events are recorded any more", len(emitted))
	}
	return used, emitted
}

func recorded(call *ast.CallExpr) (string, bool) {
	name := ""
	switch f := call.Fun.(type) {
	case *ast.Ident:
		name = f.Name
	case *ast.SelectorExpr:
		name = f.Sel.Name
	}
	if !slices.Contains([]string{"emit", "Emit", "event", "Event", "NewEvent", "Allow", "Omit"}, name) || len(call.Args) == 0 {
		return "", false
	}
	lit, ok := call.Args[0].(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	code, err := strconv.Unquote(lit.Value)
	return code, err == nil
}

// TestEventsPage generates docs/events.md from the table.
func TestEventsPage(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("<!-- Generated from logging/ocsf.go and logging/catalogue.go; do not edit. -->\n\n# Events\n\n" +
		"Every event a device can record. `backstay audit catalogue --json` prints the same for programs. The numbers are of OCSF " + logging.SchemaVersion + "; a\n" +
		"critical event is on flash, signed, before the device goes on, and is never dropped for space. Refs are of SP 800-213A.\n" +
		"Beside its attributes every record has time, quality of the time and its error where known, boot, monotonic time, index, severity, outcome, device, model, hardware address, firmware, rule\n" +
		"and policy version; where there is one, subject, session, hash before and after. Records of this table say it by the policy version `" + logging.CatalogueVersion + "`.\n\n" +
		"Personal values (" + strings.Join(logging.PrivateFields(), ", ") + ") stand beside the record and can be deleted: see [agency.md](agency.md).\n\n" +
		"| code | recorded when | by | type_uid | severity | critical | attributes | refs |\n|---|---|---|---|---|---|---|---|\n")
	for _, e := range logging.Catalogue() {
		critical := ""
		if e.Critical {
			critical = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %d | %s | %s | %s | %s |\n", e.Code, e.When, e.By, e.Type(), e.Severity, critical, strings.Join(e.Attrs, ", "), strings.Join(e.Refs, ", "))
	}
	name := filepath.Join("..", "docs", "events.md")
	if *update {
		writeFile(t, name, b.Bytes())
	}
	if !bytes.Equal(readFile(t, name), b.Bytes()) {
		t.Errorf("%s is out of date, run `go test -run EventsPage -update` here", name)
	}
}
