// SPDX-License-Identifier: Apache-2.0

package probe

import "strings"

// ReadLoginText gives text to everything that reads account, login and server files, without a file system around it.
func ReadLoginText(data []byte) {
	s := string(data)
	sshdWords(s)
	sshdNumber(s)
	parseAuthorizedKeys(data)
	loginURL(data)
	for _, base := range []string{".netrc", ".git-credentials", ".pgpass", "credentials", "config.json"} {
		storedLine(base, data)
	}
	parsePam(s, false)
	parsePam(s, true)
	(&sudoers{}).free(s)
	t := &text{}
	for l := range strings.Lines(s) {
		t.lines = append(t.lines, l)
	}
	logicalLines(t)
	doasGrants(t)
	lastAssign(data, "DROPBEAR_ARGS")
	dropbearOptions(quotedFields(s))
	parseUCI(data)
	hostOf(s)
	versionText(data)
	shellAssign(s, "A")
	if ok := verifier(s); ok != nil && !slow(s) {
		ok("a")
	}
	(&sshdSetup{}).commandLine("x", quotedFields(s))
	dropWord(s, "nopass")
	parseRecords(data)
}
