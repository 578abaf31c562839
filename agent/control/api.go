// SPDX-License-Identifier: Apache-2.0

package control

// The calls and their types. They are what the commands print with --json, so they follow its rule: a key may be added, and
// nothing else may change without a new schema number. Times are RFC 3339 in UTC and missing when there is none; sizes are
// bytes; a list is never null once it went through the server (see lists.go).

import "time"

// The calls.
const (
	MethodStatus          = "status"           // None -> Status
	MethodUpdateCheck     = "update.check"     // None -> UpdateCheck
	MethodUpdateInstall   = "update.install"   // InstallParams -> UpdateCheck; starts the install, status shows how it goes on
	MethodUpdateStatus    = "update.status"    // None -> UpdateStatus
	MethodUpdateApprove   = "update.approve"   // None -> Done
	MethodUpdateReject    = "update.reject"    // None -> Done
	MethodUpdatePostpone  = "update.postpone"  // PostponeParams -> Done
	MethodUpdateHistory   = "update.history"   // None -> History
	MethodUpdateCancel    = "update.cancel"    // None -> Done
	MethodUpdatePardon    = "update.pardon"    // None -> Done
	MethodSlotList        = "slot.list"        // None -> Slots
	MethodSlotMarkGood    = "slot.mark-good"   // None -> Done
	MethodSlotMarkBad     = "slot.mark-bad"    // None -> Done, with Reboot
	MethodSlotRollback    = "slot.rollback"    // None -> Done, with Reboot
	MethodBaselineCheck   = "baseline.check"   // None -> Findings
	MethodBaselineApply   = "baseline.apply"   // ApplyParams -> Findings
	MethodBaselineExplain = "baseline.explain" // RuleParams -> Rule
	MethodBaselineUndo    = "baseline.undo"    // None -> Undone
	MethodIdentityShow    = "identity.show"    // None -> Identity
	MethodIdentityEnroll  = "identity.enroll"  // None -> Identity
	MethodIdentityRenew   = "identity.renew"   // None -> Identity
	MethodAuditTail       = "audit.tail"       // TailParams -> Tail
	MethodAuditVerify     = "audit.verify"     // None -> AuditReport
	MethodAuditExport     = "audit.export"     // ExportParams -> Stream of an export file
)

// Status is the one screen of `backstay status`.
type Status struct {
	Time     time.Time `json:"time"`
	Agent    Agent     `json:"agent"`
	Identity Identity  `json:"identity"`
	Firmware Firmware  `json:"firmware"`
	Update   Update    `json:"update"`
	Trust    Trust     `json:"trust"`
	Baseline Baseline  `json:"baseline"`
	Audit    Audit     `json:"audit"`
}

// Agent is the running agent.
type Agent struct {
	Version string    `json:"version"`
	Started time.Time `json:"started,omitzero"`
	PID     int       `json:"pid"`
	// Problems lists parts that do not work, in words, most important first.
	Problems []string `json:"problems"`
}

// Identity is who the device is.
type Identity struct {
	DeviceID    string      `json:"device_id"`
	Product     string      `json:"product"`
	Compatible  string      `json:"compatible"`
	Serial      string      `json:"serial"`    // on the label, "" when not known
	KeyClass    string      `json:"key_class"` // where the keys are: file, tpm ...
	SPKI        string      `json:"spki"`      // public birth key, base64 of its DER form
	Enrolled    bool        `json:"enrolled"`
	Certificate Certificate `json:"certificate,omitzero"` // the operational one
	Problem     string      `json:"problem"`              // why the last enrolment or renewal failed, "" when it did not
}

// Certificate is one certificate.
type Certificate struct {
	Serial    string    `json:"serial"` // hexadecimal
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	RenewAt   time.Time `json:"renew_at,omitzero"`
}

// Firmware is what runs.
type Firmware struct {
	Version   string    `json:"version"`
	Slot      string    `json:"slot"`
	Counter   uint64    `json:"counter"`   // release counter, 0 when not known
	Floor     uint64    `json:"floor"`     // no release below it is installed
	Confirmed bool      `json:"confirmed"` // kept; false during a trial
	Since     time.Time `json:"since,omitzero"`
}

// Update is how far an update is.
type Update struct {
	Enabled   bool      `json:"enabled"` // false: the configuration has no update section
	State     string    `json:"state"`   // name of a row of the lifecycle: idle, checking, downloading ...
	Release   *Release  `json:"release"` // being installed, null when idle
	Slot      string    `json:"slot"`    // it goes to
	Bytes     int64     `json:"bytes"`   // written so far, of Release.Length
	CheckedAt time.Time `json:"checked_at,omitzero"`
	NextCheck time.Time `json:"next_check,omitzero"`
	// Last is the error the last check or install ended with, null when it did not.
	Last *Error `json:"last"`
	// Waiting is the step that the last run found not allowed yet, null when it was not held.
	Waiting *Step `json:"waiting"`
}

// UpdateStatus explains what the agent will do about updates, and why not yet.
type UpdateStatus struct {
	Time      time.Time `json:"time"`
	Current   string    `json:"current"` // version that runs
	Update    Update    `json:"update"`
	Offered   *Release  `json:"offered"`   // meant for this device and not begun, null when there is none
	Steps     []Step    `json:"steps"`     // those still to come, in order
	Wish      Wish      `json:"wish"`      // what a person said about the release
	Line      string    `json:"line"`      // what the connection costs: free, metered or offline
	Directory string    `json:"directory"` // the repository that is used instead of the servers, "" when none
	Rollouts  []Rollout `json:"rollouts"`  // of this product, as the last look found them; the first that reaches decides
}

// Step is what the policy says about one step of an update.
type Step struct {
	Step    string   `json:"step"` // check, download, install or reboot
	Allowed bool     `json:"allowed"`
	Reasons []Reason `json:"reasons"` // why not
	Because string   `json:"because"` // what lifted rules that would have held, "" when nothing did
}

// Reason is why a step waits.
type Reason struct {
	Code   string    `json:"code"`
	Why    string    `json:"why"`
	Until  time.Time `json:"until,omitzero"` // when it ends by itself
	Change string    `json:"change"`         // what would end it before
}

// Wish is what a person said about a release.
type Wish struct {
	Answer    string    `json:"answer"`    // approved, rejected, now, or "" for nothing
	Postponed int       `json:"postponed"` // times
	Left      int       `json:"left"`      // times it may be postponed still
	Until     time.Time `json:"until,omitzero"`
	Latest    time.Time `json:"latest,omitzero"` // it cannot be postponed beyond; zero before the first time
}

// Rollout is how one rollout looks from this device.
type Rollout struct {
	Version   string    `json:"version"`
	From      uint32    `json:"from"`  // percent of the fleet
	To        uint32    `json:"to"`    // exclusive
	Place     float64   `json:"place"` // of this device, in percent
	Named     bool      `json:"named"` // the rollout names devices
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	Deadline  time.Time `json:"deadline,omitzero"`
	Paused    bool      `json:"paused"`
	Reached   bool      `json:"reached"` // it concerns this device now
}

// InstallParams says where a release is installed from.
type InstallParams struct {
	From string `json:"from"` // directory with a copy of the repository, as an absolute path; "": the servers
}

// PostponeParams says for how long a release is put off.
type PostponeParams struct {
	Seconds int64 `json:"seconds"`
}

// Release is a release as signed.
type Release struct {
	Version    string    `json:"version"`
	Counter    uint64    `json:"counter"`
	Floor      uint64    `json:"floor"`
	Length     int64     `json:"length"`
	SHA256     string    `json:"sha256"` // hexadecimal
	Class      string    `json:"class"`  // security or feature
	Advisories []string  `json:"advisories"`
	Notes      string    `json:"notes"` // for people, "" when there are none
	SupportEnd time.Time `json:"support_end,omitzero"`
	Deadline   time.Time `json:"deadline,omitzero"` // when a security release stops waiting for people
}

// Trust is what the device's belief in firmware rests on.
type Trust struct {
	RootVersion int64     `json:"root_version"`
	Issued      time.Time `json:"issued,omitzero"`  // newest verified metadata
	Expires     time.Time `json:"expires,omitzero"` // no install after it
	Clock       string    `json:"clock"`            // how good the time is: synced, system or floor
}

// Baseline sums up the last check.
type Baseline struct {
	Profiles  []string  `json:"profiles"`
	Enforce   bool      `json:"enforce"`
	Counts    Counts    `json:"counts"`
	Scores    []Score   `json:"scores"`
	CheckedAt time.Time `json:"checked_at,omitzero"`
	Failed    []Finding `json:"failed"` // worst first, at most MaxListed
	Policy    Policy    `json:"policy"`
}

// Policy is the configuration policy in force.
type Policy struct {
	ID      string    `json:"id"`
	Serial  uint64    `json:"serial"`
	Source  string    `json:"source"` // operator, maker or built-in
	Issued  time.Time `json:"issued,omitzero"`
	Expires time.Time `json:"expires,omitzero"` // then its waivers end
	Problem string    `json:"problem"`          // why the newest one published is not in force, "" when it is
}

// Score sums up the rules that speak for one capability of SP 800-213A.
type Score struct {
	Capability string `json:"capability"` // DI, DC, DP, LA, SU, CS or DS
	Passed     int    `json:"passed"`
	Applicable int    `json:"applicable"` // rules that could be judged, or should have been
	Waived     int    `json:"waived"`     // of these, accepted for a time
	Unknown    int    `json:"unknown"`    // of these, could not be judged
}

// MaxListed is how many failed findings a status holds.
const MaxListed = 16

// Counts counts findings by result.
type Counts struct {
	Pass          int `json:"pass"`
	Fail          int `json:"fail"`
	Unknown       int `json:"unknown"`
	Waived        int `json:"waived"`
	NotApplicable int `json:"not_applicable"`
	Fixed         int `json:"fixed"`
}

// Audit is how the log stands. Always Pruned <= Acked <= Sent <= Size.
type Audit struct {
	Origin    string    `json:"origin"`
	Size      uint64    `json:"size"`   // records written
	Sent      uint64    `json:"sent"`   // handed to the broker
	Acked     uint64    `json:"acked"`  // signed for by a quorum of collectors
	Pruned    uint64    `json:"pruned"` // no longer on the device
	Shed      uint64    `json:"shed"`   // bodies dropped before a receipt, hashes kept
	HeadAt    time.Time `json:"head_at,omitzero"`
	ReceiptAt time.Time `json:"receipt_at,omitzero"`
	Broker    string    `json:"broker"` // in use, or to be tried next; "" when records stay on the device
	Connected bool      `json:"connected"`
	Problem   string    `json:"problem"`
	Sources   []Source  `json:"sources"` // what is watched for the log
	Intake    Intake    `json:"intake"`

	Store          string    `json:"store"`           // kind of store: bolt or segments
	Fill           int       `json:"fill_percent"`    // of the space the log may take
	Signed         uint64    `json:"signed"`          // records the newest checkpoint covers
	Pending        int       `json:"pending"`         // events not on flash yet
	Lost           uint64    `json:"lost"`            // events that could not be kept and are not told in the log yet
	BacklogSeconds int64     `json:"backlog_seconds"` // at least how long the oldest record without a quorum of receipts has waited
	Stalled        bool      `json:"stalled"`         // nothing was acknowledged for long
	Failed         string    `json:"failed"`          // why the store cannot be written, "" while it can
	FailedSince    time.Time `json:"failed_since,omitzero"`
	Counter        string    `json:"counter_problem"` // why the hardware counter was not read or advanced
}

// Source is one source of the log: what it sees here, or why it sees nothing.
type Source struct {
	Name   string `json:"name"`
	State  string `json:"state"` // working, off, unavailable or failed
	Detail string `json:"detail"`
}

// Intake is how the product's own programs write into the log.
type Intake struct {
	Socket     string `json:"socket"`     // takes JSON; "" when there is none
	Devlog     string `json:"devlog"`     // takes syslog lines; "" when there is none
	Accepted   uint64 `json:"accepted"`   // events recorded since the agent started
	Refused    uint64 `json:"refused"`    // messages that were malformed, or of users that may not write
	Suppressed uint64 `json:"suppressed"` // events beyond a rate
	Below      uint64 `json:"below"`      // syslog lines less severe than audit.intake.devlog_level
}

// UpdateCheck is the answer of a check: what this device should run.
type UpdateCheck struct {
	Current string   `json:"current"` // version that runs
	Release *Release `json:"release"` // newer one, null when up to date
	Started bool     `json:"started"` // an install has been started
}

// Done is the answer of a command that changes something.
type Done struct {
	What   string `json:"what"`   // what was done, in words
	Reboot bool   `json:"reboot"` // a reboot is needed, or under way
}

// History is how earlier updates ended, newest first.
type History struct {
	Items      []Outcome    `json:"items"`
	Quarantine []Quarantine `json:"quarantine"`
}

// Outcome is one update.
type Outcome struct {
	Result  string    `json:"result"` // committed, rolled-back, rejected, canceled
	Version string    `json:"version"`
	Slot    string    `json:"slot"`
	Began   time.Time `json:"began,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	Code    string    `json:"code"` // of the failure, "" when there was none
	Why     string    `json:"why"`
}

// Quarantine is a release that failed here and is left alone.
type Quarantine struct {
	Version   string    `json:"version"`
	SHA256    string    `json:"sha256"`
	Attempts  int       `json:"attempts"`
	NotBefore time.Time `json:"not_before,omitzero"`
	Never     bool      `json:"never"` // it is not tried again
	Why       string    `json:"why"`
}

// Slots is the state of every slot, and of the boot loader that chooses between them.
type Slots struct {
	Items    []Slot     `json:"items"`
	Boot     Bootloader `json:"boot"`
	Evidence []Evidence `json:"evidence"`
}

// Bootloader is the boot loader of the configuration.
type Bootloader struct {
	Kind       string `json:"kind"`
	Convention string `json:"convention"` // "" when its kind has one only
	Path       string `json:"path"`       // where it keeps its choice
	Trial      bool   `json:"trial"`      // it counts down to a fall-back
	Problem    string `json:"problem"`    // why it cannot be asked, "" when it can
}

// Evidence is one thing found on the device that speaks for a boot loader, or for the agent that used it before.
type Evidence struct {
	Kind string `json:"kind"` // "" when it speaks for none
	Path string `json:"path"`
	Why  string `json:"why"`
}

// Slot is one place an image can boot from.
type Slot struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Path    string `json:"path"`
	Booted  bool   `json:"booted"`
	Primary bool   `json:"primary"` // starts next
	Left    int    `json:"left"`    // attempts the boot loader has left; 0: it is not started
	Version string `json:"version"` // "" when it holds no image this agent installed
	Counter uint64 `json:"counter"`

	Bootname string `json:"bootname"` // what the boot loader calls it
	Size     int64  `json:"size"`     // bytes it has room for; 0 when it cannot be measured
	Image    string `json:"image"`    // path of the image it holds, "" when not known
	SHA256   string `json:"sha256"`   // of that image, as it was verified
}

// Findings is what a check or an apply found.
type Findings struct {
	Profiles []string  `json:"profiles"`
	DryRun   bool      `json:"dry_run"`
	Counts   Counts    `json:"counts"`
	Scores   []Score   `json:"scores"`
	Items    []Finding `json:"items"`
}

// Finding is the answer of one rule. A pass names what was inspected; there is no pass without.
type Finding struct {
	Rule      string   `json:"rule"`
	Title     string   `json:"title"`
	Severity  string   `json:"severity"`
	Result    string   `json:"result"` // pass, fail, not-applicable, unknown, waived, fixed, fix-failed ...
	Expected  string   `json:"expected"`
	Observed  string   `json:"observed"`
	Inspected []string `json:"inspected"`
	Reason    string   `json:"reason"` // for not-applicable, unknown and waived
	Fixable   bool     `json:"fixable"`
	Changes   []Change `json:"changes"` // what a repair did, or would do in a dry run
}

// Change is one change of a file or a kernel value, as people read it.
type Change struct {
	Op   string `json:"op"`
	Path string `json:"path"`
	Diff string `json:"diff"` // unified difference, secrets masked
}

// Undone is what an undo of the last repair changed back.
type Undone struct {
	Changes []Change `json:"changes"`
}

// ApplyParams says what to repair.
type ApplyParams struct {
	Rules  []string `json:"rules"` // empty: every rule
	DryRun bool     `json:"dry_run"`
}

// RuleParams names a rule.
type RuleParams struct {
	Rule string `json:"rule"`
}

// Rule explains one rule.
type Rule struct {
	ID       string   `json:"id"`
	Title    string   `json:"title"`
	Why      string   `json:"why"`
	Severity string   `json:"severity"`
	Kind     string   `json:"kind"`
	Target   string   `json:"target"`
	Want     string   `json:"want"`
	Fix      string   `json:"fix"` // what a repair does, "" when a person must
	Refs     []string `json:"refs"`
	Profile  string   `json:"profile"`
	Finding  *Finding `json:"finding"` // of the last check, null before the first
}

// TailParams says which records to show.
type TailParams struct {
	From  uint64 `json:"from"`  // first index; the newest Limit records when Newest
	Limit int    `json:"limit"` // at most MaxTail
	// Newest shows the end of the log and leaves From out.
	Newest bool `json:"newest"`

	// What is shown; the zero value shows everything. A record that cannot be read is shown when no filter is set.
	Code     string    `json:"code,omitempty"`     // pattern with * and ?
	Severity string    `json:"severity,omitempty"` // at least
	Source   string    `json:"source,omitempty"`
	Since    time.Time `json:"since,omitzero"`
}

// ExportParams says what an export leaves out.
type ExportParams struct {
	WithoutPersonal bool `json:"without_personal"` // values of personal fields; the file verifies all the same
}

// MaxTail is the most records one answer holds.
const MaxTail = 200

// Tail is a run of records, oldest first.
type Tail struct {
	Size  uint64   `json:"size"` // records in the log
	Next  uint64   `json:"next"` // ask from here for what comes next
	Items []Record `json:"items"`
}

// Record is one record in short. The evidence itself is what audit.export gives.
type Record struct {
	Index    uint64    `json:"index"`
	Last     uint64    `json:"last"` // the same, except of records that were shed as one: these are from Index to Last
	Time     time.Time `json:"time,omitzero"`
	Code     string    `json:"code"`
	Severity string    `json:"severity"`
	Outcome  string    `json:"outcome"`
	Message  string    `json:"message"`
	Shed     bool      `json:"shed"` // its body was dropped, its hash is there, or that of the subtree it is in

	// Personal values are shown while they are beside the record, afterwards the commitment to them.
	Subject string `json:"subject"`
	Session string `json:"session"`
	Rule    string `json:"rule"`
	Policy  string `json:"policy"`
	Attrs   []Attr `json:"attrs"`
}

// Attr is an attribute of a record. A name may be there more than once.
type Attr struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// AuditReport is what verifying the log on the device found.
type AuditReport struct {
	OK       bool      `json:"ok"`
	Origin   string    `json:"origin"`
	First    uint64    `json:"first"` // oldest record on the device
	Size     uint64    `json:"size"`
	Root     string    `json:"root"` // base64, of the newest signed head
	Shed     uint64    `json:"shed"`
	Gaps     uint64    `json:"gaps"`     // records that report a loss
	Unsigned uint64    `json:"unsigned"` // records after the newest signed head
	Receipts []string  `json:"receipts"` // collectors that signed for a head of this log
	FirstAt  time.Time `json:"first_at,omitzero"`
	LastAt   time.Time `json:"last_at,omitzero"`
	Bad      *BadRange `json:"bad"` // null when every record is whole
}

// BadRange says which records cannot be believed, and why.
type BadRange struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	Code  string `json:"code"`
	Why   string `json:"why"`
}
