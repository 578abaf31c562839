// SPDX-License-Identifier: Apache-2.0

// Package config is the agent's configuration file: what it may say, what a missing key means, and what is wrong with it.
//
// The file is one JSON object of at most 64 KiB. It is read strictly: an unknown key, a key given twice, a null or a value of
// the wrong type is an error that names the key's full path and, for an unknown key, the nearest one known. Everything wrong
// is reported at once, one error per key.
//
// The file belongs to the maker of the device and to root: whoever can write it chooses the server, the factory root of trust
// and the commands the agent runs, so Load refuses a file that everybody may write. What it cannot say, because there is no key
// for it: switch off a signature, TLS, digest, chain or floor check, or hold a secret. Keys and certificates are named by file.
//
// The struct below is the only source of names, defaults, limits and documentation: `backstay config explain`, `config show`
// and docs/config.md are made from its tags.
//
//	default  value of a missing key; ${state_dir} and ${run_dir} stand for those settings
//	doc      what the key means, with its unit
//	trust    for a path: who is trusted with that file, and what they could do with it
//	one      the only values allowed
//	min,max  limits of a number or a duration
//	path     the value is an absolute path, and what CheckPaths expects there
package config

// Config is the whole file.
type Config struct {
	StateDir string `json:"state_dir" default:"/var/lib/backstay" path:"dir,private,create" doc:"directory of everything that must survive a reboot: job, trust metadata, keys, audit log; on a writable, journalled file system" trust:"root only: who can write it can roll back metadata and forge what the device remembers; who can read it gets a key kept in a file"`
	RunDir   string `json:"run_dir" default:"/run/backstay" path:"dir,create" doc:"directory of the control socket; may be lost at reboot" trust:"root only: who can write it can replace the control socket"`

	Product  Product         `json:"product" doc:"what this device is"`
	Server   Server          `json:"server" doc:"how the fleet's servers are recognised"`
	Update   Update          `json:"update" doc:"where releases come from and when one counts as good; leave the section out on a device that is not updated by this agent"`
	Slots    map[string]Slot `json:"slots" doc:"the places an image can be written to, by the names the boot loader uses"`
	Booted   Booted          `json:"booted" doc:"how the agent learns which slot runs"`
	Boot     Boot            `json:"boot" doc:"the boot loader that chooses the slot"`
	Floor    Floor           `json:"floor" doc:"where the rollback floor is kept"`
	Reboot   Reboot          `json:"reboot" doc:"how the device reboots"`
	Identity Identity        `json:"identity" doc:"keys and certificates of the device"`
	Baseline Baseline        `json:"baseline" doc:"secure-default configuration"`
	Audit    Audit           `json:"audit" doc:"the audit log and where it is sent"`
	Control  Control         `json:"control" doc:"the local command socket"`

	set   map[string]bool // keys the file gave, by path
	lines map[string]int  // the lines they are on
}

// Product says what this device is. A release for another product or another revision is refused.
type Product struct {
	Name       string `json:"name" doc:"product name as in signed releases, for instance acme-cam"`
	Compatible string `json:"compatible" doc:"hardware revision as in a signed release's compatible list, for instance acme-cam-v2"`
	OSRelease  string `json:"os_release" default:"/etc/os-release" path:"file" doc:"file whose VERSION_ID is the version of the running firmware" trust:"part of the firmware image; it is reported, never used to decide what may be installed"`
	SerialFile string `json:"serial_file" path:"file" doc:"file that holds the serial number on the label; empty: found in the device tree, SoC or DMI" trust:"the factory: the number is reported beside the identity and proves nothing by itself"`
}

// Server says how the fleet's servers are recognised.
type Server struct {
	CAFile string `json:"ca_file" path:"file,trusted" doc:"PEM file with the roots that sign the servers' certificates; the system's roots are never used" trust:"the factory: who can write it can pose as every server, but cannot sign a release"`
}

// Update says where releases come from and when one counts as good.
type Update struct {
	RootFile     string   `json:"root_file" path:"file,trusted" doc:"TUF root metadata put in at the factory: the first link of every later root" trust:"the factory: who can write it decides whose firmware this device installs; keep it on a read-only or verified file system"`
	MetadataURL  string   `json:"metadata_url" doc:"https URL of the repository's metadata directory, for instance https://fw.example/metadata/"`
	TargetsURL   string   `json:"targets_url" doc:"https URL of the repository's targets directory; may be a CDN, it is not trusted"`
	Mirrors      []Mirror `json:"mirrors" doc:"more places that serve the same repository, at most 7; the next is asked when one does not deliver, or delivers what is not signed"`
	Poll         Duration `json:"poll" default:"6h" min:"1s" max:"720h" doc:"time between two looks at the repository, varied by a tenth; 1h to 24h suits a fleet, seconds suit a test bench"`
	Attempts     int      `json:"attempts" default:"3" min:"1" max:"9" doc:"how often the boot loader tries a new image before it goes back"`
	TrialTimeout Duration `json:"trial_timeout" default:"5m" min:"1s" max:"24h" doc:"time a new image has to pass every health check before the device goes back to the old one"`
	Health       []Health `json:"health" doc:"what a new image must pass before it is kept; without any, a running agent is the only proof"`
	Watchdog     string   `json:"watchdog" path:"any" doc:"device of a hardware watchdog, such as /dev/watchdog, that restarts the device when a trial gets stuck; empty: none, or somebody else feeds it" trust:"root only: whoever can open it can restart the device"`

	Delta     string   `json:"delta" default:"prefer" one:"prefer|require|off" doc:"deltas from the image that runs; prefer: fetch one if the release has it; require: install no release without one, for a metered line; off: fetch compressed or plain images"`
	Budget    int      `json:"budget" default:"0" min:"0" doc:"most bytes one update may cost to fetch: a release that takes more is refused before its first byte, and a download that does is ended; 0: no limit"`
	Bandwidth int      `json:"bandwidth" default:"0" min:"0" doc:"most bytes per second that are fetched from the repository, at least 4096; 0: no limit"`
	Line      string   `json:"line" default:"file" one:"file|free|metered|offline" doc:"what the connection costs; file: as update.line_file says, free without that file; free, metered: always; offline: the repository is not asked, releases come from directories alone"`
	LineFile  string   `json:"line_file" default:"${run_dir}/line" doc:"line file: a file in which the product writes free, metered or offline, whenever that changes" trust:"whoever can write it can make updates wait, not stop those that a person asks for on the device"`
	Metered   string   `json:"metered" default:"always" one:"always|security-only|never" doc:"which images are fetched over a metered line; metadata is a few kilobytes and always is"`
	LocalDirs []string `json:"local_dirs" default:"[]" doc:"directories looked into every half a minute for a copy of the repository, such as the mount point of a stick; what is newer and signed there is installed under the same policy; empty: none"`

	Automatic     []string    `json:"automatic" default:"[\"check\",\"download\",\"install\",\"reboot\"]" doc:"steps that need nobody: check, download, install (the boot loader is told), reboot; the others wait for backstay update check, approve or install, for update.consent_file or for update.consent_exec"`
	ConsentFile   string      `json:"consent_file" doc:"file in which the product's own screen writes what its user said: approve VERSION, reject VERSION; empty: there is none" trust:"whoever can write it can approve and reject genuine releases"`
	ConsentExec   []string    `json:"consent_exec" doc:"program, as an absolute path, and its arguments, that is asked before a step which is not automatic, with version and class of the release as further arguments; 0: yes, 1: no, else: ask again later" trust:"root only: the program runs with the agent's rights"`
	Windows       []string    `json:"windows" default:"[]" doc:"maintenance windows such as Mon-Fri 22:00-04:00, or 02:00-04:00 for every day; empty: any time"`
	WindowSteps   []string    `json:"window_steps" default:"[\"install\",\"reboot\"]" doc:"steps that wait for a window; download may be one, too"`
	Zone          string      `json:"zone" default:"UTC" doc:"where the windows' times are: UTC, local for the device's own setting, or an offset such as +02:00"`
	PostponeTimes int         `json:"postpone_times" default:"3" min:"0" max:"100" doc:"how often people may put a release off; 0: not at all"`
	PostponeTotal Duration    `json:"postpone_total" default:"72h" max:"8760h" doc:"how long a release may be put off, from the first time on"`
	SecurityOnly  bool        `json:"security_only" default:"false" doc:"install releases of class security only"`
	Conditions    []Condition `json:"conditions" doc:"what must hold before an image is fetched, installed and started, such as a charged battery"`

	Components []Component `json:"components" doc:"parts of the device that a release brings beside its image, such as a microcontroller's firmware; a release with others is refused"`
}

// Component is a part of the device that is updated beside the image.
type Component struct {
	Name    string   `json:"name" doc:"name in signed releases"`
	Kind    string   `json:"kind" one:"file|tree|handler" doc:"file: one file, replaced as a whole; tree: a directory, replaced as a whole by what a tar archive holds; handler: what a program of the maker's reaches"`
	Path    string   `json:"path" doc:"file, tree: where it is; path.new and path.tar beside it are the agent's" trust:"root only: who can write beside it can change what becomes active"`
	Argv    []string `json:"argv" doc:"handler: program, as an absolute path, and the arguments before the operation; run as the agent's user without a shell" trust:"root only: the program runs with the agent's rights"`
	Timeout Duration `json:"timeout" default:"10m" min:"1s" max:"2h" doc:"handler: longest time one operation may take; activating is part of the trial"`
}

// Mirror is one more place that serves the repository.
type Mirror struct {
	MetadataURL string `json:"metadata_url" doc:"https URL of its metadata directory; empty: it serves images alone"`
	TargetsURL  string `json:"targets_url" doc:"https URL of its targets directory; empty: it serves metadata alone"`
}

// Condition is one thing that must hold, as a file or a program.
type Condition struct {
	Name    string   `json:"name" doc:"name in the status and in events"`
	File    string   `json:"file" doc:"file that holds a whole number, such as /sys/class/power_supply/BAT0/capacity; a file that cannot be read does not hold" trust:"whoever can write it can make updates wait, or go on"`
	Min     int      `json:"min" default:"0" doc:"file: the least value with which the condition holds"`
	Argv    []string `json:"argv" doc:"program, as an absolute path, and its arguments; it holds when the program ends with 0; run as the agent's user without a shell" trust:"root only: the program runs with the agent's rights"`
	Timeout Duration `json:"timeout" default:"10s" min:"1s" max:"5m" doc:"argv: longest time it may take"`
}

// Health is one health check as data. Which keys it takes depends on its kind.
type Health struct {
	Name        string   `json:"name" doc:"name in reports and events"`
	Kind        string   `json:"kind" one:"process|exec|file|mount|metric|http|tcp|mqtt|baseline" doc:"process: the program at path runs; exec: argv ends with 0; file: path exists; mount: a file system is mounted at path; metric: the number in the file at path is from min to max; http: url answers with status; tcp: addr accepts a connection; mqtt: the audit broker is connected; baseline: no failed rule above max_severity"`
	Argv        []string `json:"argv" doc:"exec: program, as an absolute path, and its arguments; run as the agent's user without a shell" trust:"root only: the program runs with the agent's rights"`
	Path        string   `json:"path" doc:"process, file, mount, metric: absolute path" trust:"whoever can create it can make a bad image look good"`
	Min         int      `json:"min" default:"0" min:"-2147483648" doc:"metric: least value that is good"`
	Max         int      `json:"max" default:"2147483647" min:"-2147483648" doc:"metric: greatest value that is good"`
	URL         string   `json:"url" doc:"http: http or https URL"`
	Status      int      `json:"status" default:"200" min:"100" max:"599" doc:"http: status code expected"`
	Addr        string   `json:"addr" doc:"tcp: host:port"`
	MaxSeverity string   `json:"max_severity" one:"low|medium|high|critical" default:"medium" doc:"baseline: the worst severity a failed rule may have"`
	Timeout     Duration `json:"timeout" default:"30s" min:"1s" max:"1h" doc:"exec, http, tcp, mqtt: longest time one attempt may take"`
}

// Slot is one place an image can be written to.
type Slot struct {
	Kind     string `json:"kind" one:"file|block|emmc-boot|mtd|ubi" doc:"file: a regular file of fixed size; block: a block device or partition; emmc-boot: a boot partition of an eMMC, writable only while it is written; mtd: raw NOR or NAND flash, over its bad blocks; ubi: a UBI volume"`
	Path     string `json:"path" path:"slot" doc:"file or device that holds the image; raw flash may be named mtd:NAME and a UBI volume ubi0:NAME, because their numbers can change" trust:"root only: what is written here is booted, unless the boot loader verifies it"`
	Bootname string `json:"bootname" doc:"what the boot loader calls the slot; empty: its name here. uboot: the name in BOOT_ORDER, with convention mender the number of its partition, otherwise the value of boot.variable; grub: the name in ORDER, with convention mender the number of its partition; efi: label or number of its boot entry, with convention systemd-boot the entry's name; tryboot: the number of its boot partition; barebox: the bootchooser's target; android: its suffix a to d, or its number; psa: the number of its bank; command: what the program calls it"`
}

// Booted says how the agent learns which slot runs.
type Booted struct {
	Cmdline string `json:"cmdline" default:"/proc/cmdline" path:"file" doc:"file with the kernel's command line" trust:"the boot loader: it says which slot was booted"`
	Key     string `json:"key" default:"backstay.slot" doc:"word on the command line whose value is the slot's name: backstay.slot=A; root: the slot is the one whose device root= names, by path, PARTUUID, PARTLABEL, UUID or LABEL"`
}

// Boot is the boot loader that chooses the slot.
type Boot struct {
	Kind        string   `json:"kind" default:"uboot" one:"uboot|grub|efi|tryboot|barebox|android|psa|command" doc:"uboot: the U-Boot environment; grub: GRUB's environment block; efi: the firmware's boot variables; tryboot: a Raspberry Pi's autoboot.txt; barebox: barebox's state; android: Android's boot control block; psa: the metadata of a PSA firmware update; command: a program of the maker's"`
	Path        string   `json:"path" path:"any" doc:"where the boot loader keeps its choice; empty: the usual place. grub: the environment block, /boot/grub/grubenv, or with convention mender the directory of the two copies; efi: /sys/firmware/efi/efivars; tryboot: /boot/autoboot.txt; barebox: the device of the state's backend, which has no usual place; android: the misc partition, /dev/disk/by-partlabel/misc; psa: the partition of the first copy, which has no usual place" trust:"root only: who can write it chooses what is booted, among what the boot loader accepts"`
	Copy        string   `json:"copy" path:"any" doc:"psa: the partition of the second copy" trust:"root only: as boot.path"`
	Offset      int      `json:"offset" default:"0" min:"0" max:"1073741824" doc:"android and barebox: where in the device the control block or the state is, in bytes; 0 is the usual place, with android 2048"`
	FWEnvConfig string   `json:"fw_env_config" default:"/etc/fw_env.config" path:"file,trusted" doc:"uboot: where the environment lies, in the format of fw_printenv or the YAML of libubootenv" trust:"root only: it names the device the agent writes the boot choice to"`
	Convention  string   `json:"convention" default:"rauc" one:"rauc|bootcount|mender|systemd-boot" doc:"uboot, grub and efi: the variables the boot script reads; rauc: BOOT_ORDER and BOOT_x_LEFT; bootcount: upgrade_available, bootcount and bootlimit; mender: Mender's variables for U-Boot, and its two environments for GRUB; with efi, rauc is BootNext and BootOrder, systemd-boot its LoaderEntry variables"`
	Namespace   string   `json:"namespace" doc:"uboot: which environment of a YAML fw_env_config; empty: the one the device tree names in /chosen/u-boot,env-config, or the first"`
	Variable    string   `json:"variable" doc:"uboot: with convention bootcount, the variable that names the slot, by its bootname; empty: Mender's mender_boot_part and mender_boot_part_hex"`
	Counter     string   `json:"counter" path:"any" doc:"uboot: with convention bootcount, the file in which U-Boot counts its starts (CONFIG_BOOTCOUNT_FS); empty: the environment" trust:"root only: who can write it ends a trial"`
	Canary      string   `json:"canary" doc:"uboot: a variable, or name=value, that the boot loader itself sets and saves; an environment without it is neither believed nor written. With convention bootcount or mender, Mender's own canary is obeyed where the environment has one"`
	Command     []string `json:"command" path:"exec" doc:"command: program, as an absolute path, and its first arguments; it answers get-primary, set-primary NAME, get-state NAME and set-state NAME good or bad, as RAUC's custom backend does" trust:"root only: the program runs with the agent's rights"`
	Timeout     Duration `json:"timeout" default:"30s" min:"1s" max:"10m" doc:"command: longest time the program may take"`
	SWUpdate    bool     `json:"swupdate" doc:"uboot: also keep SWUpdate's variables ustate and recovery_status"`
}

// Floor is where the rollback floor is kept.
type Floor struct {
	Kind   string `json:"kind" default:"file" one:"file|tpm" doc:"file: two files in the state directory, as strong as that directory; tpm: the same files, believed only at the count of a counter in the TPM 2.0 that rises with the floor, so that an old copy of the flash stops installs instead of lowering the floor"`
	Device string `json:"device" default:"/dev/tpmrm0" doc:"tpm: the kernel's resource manager" trust:"whoever may open it can raise the counter, which stops installs; nobody can lower it"`
	Index  int    `json:"index" default:"25168881" min:"25165824" max:"29360127" doc:"tpm: NV index of the counter, in the owner's range 0x01800000 to 0x01bfffff, another one than the log's; defined when missing, which needs an owner hierarchy without a password"`
}

// Reboot says how the device reboots.
type Reboot struct {
	Method  string   `json:"method" default:"kernel" one:"kernel|command|exit" doc:"kernel: sync and the reboot system call; command: run command; exit: end with code 4 and let the supervisor reboot"`
	Command []string `json:"command" path:"exec" doc:"command: program, as an absolute path, and its arguments" trust:"root only: the program runs with the agent's rights"`
}

// Identity says where the device's keys are and who certifies them.
type Identity struct {
	Keys       string   `json:"keys" default:"file" one:"file" doc:"file: P-256 keys in the state directory, encrypted under a key derived from hardware identifiers"`
	ESTURL     string   `json:"est_url" doc:"https URL of the enrolment server (RFC 7030), without /.well-known; empty: the device keeps its birth certificate only"`
	RenewAfter Duration `json:"renew_after" default:"0s" max:"8760h" doc:"age at which the certificate is renewed; 0s: two thirds of its life, varied by a tenth"`
}

// Baseline says which secure-default rules hold on this device.
type Baseline struct {
	Profiles  []string `json:"profiles" default:"[\"base\"]" doc:"built-in baselines that apply, in order; an empty list switches the part off"`
	FloorFile string   `json:"floor_file" path:"file,trusted" doc:"the maker's own policy, laid over the profiles: it may add rules, tighten theirs and waive; empty: the profiles alone are the floor" trust:"the maker: it decides what an operator's policy can waive; keep it on a read-only or verified file system"`
	Root      string   `json:"root" default:"/" path:"dir" doc:"root of the file tree that is checked; every path of a rule is resolved inside it" trust:"root only: the agent changes files in it when enforce is true"`
	ReadOnly  string   `json:"read_only" default:"bind" one:"bind|report" doc:"how a file on a read-only file system is repaired; bind: a changed copy in the state directory is mounted over it, again at every boot, until the image brings another one; report: it is mended in the image"`
	Enforce   bool     `json:"enforce" default:"true" doc:"repair what a rule can repair; false: report only"`
	Period    Duration `json:"period" default:"24h" min:"1s" max:"720h" doc:"time between two full checks; hours suit a fleet, seconds suit a test bench"`
	Watch     bool     `json:"watch" default:"true" doc:"notice changes between two full checks: of files and mounts at once, of kernel values and listening sockets within half a minute"`
	Confirm   Duration `json:"confirm" default:"2m" min:"1s" max:"1h" doc:"time in which a repair that could cut the device off has to be proved harmless, by new connections to the servers this file names, before it is taken back; without such servers these repairs wait for a person"`
}

// Audit says how much of the audit log is kept and where it goes.
type Audit struct {
	Brokers     []string `json:"brokers" doc:"MQTT brokers, tls://host:port each, the wanted one first and at most 8; the next is used when one does not answer or nobody behind it signs for records, and the first is tried again after half an hour; empty: records stay on the device"`
	Proxy       string   `json:"proxy" doc:"proxy through which brokers are reached, http://host:port (CONNECT) or socks5://host:port, without a password; empty: directly. Variables of the environment are never looked at"`
	MaxRate     int      `json:"max_rate" default:"0" min:"0" doc:"most bytes per second that are published in the long run, at least 256; 0: no limit"`
	Rejoin      Duration `json:"rejoin" default:"30s" min:"1s" max:"1h" doc:"time over which a fleet spreads its return to a broker that went away: each device waits for a random part of it; 30s mean 333 connections a second for 10000 devices"`
	CapacityMiB int      `json:"capacity_mib" default:"8" min:"1" max:"512" doc:"most space the log may take, in MiB; when it is full, bodies of unsent records are dropped and their hashes kept"`
	Store       string   `json:"store" default:"auto" one:"auto|bolt|segments" doc:"kind of file a new log is kept in: bolt, one database; segments, append-only files, for file systems without shared mappings such as JFFS2; auto: what works; a log that is there keeps its kind"`
	ReceiptKeys []string `json:"receipt_keys" doc:"public keys of the collectors whose receipts count, as signed-note verifier keys: name+hash+key"`
	Quorum      int      `json:"quorum" default:"1" min:"1" max:"16" doc:"how many different collectors must have signed for a record before the device may drop it"`
	Sources     Sources  `json:"sources" doc:"what is watched for the log"`
	Counter     Counter  `json:"counter" doc:"a counter in hardware against a log that is set back"`
	Private     []string `json:"private" doc:"attributes that may be about a person, besides those the agent knows: their values stand beside the record and can be deleted without breaking a proof"`
	Intake      Intake   `json:"intake" doc:"how the product's own programs write into the log"`
}

// Sources says what the audit log watches.
type Sources struct {
	Off    []string `json:"off" doc:"names of sources that stay closed, or all; backstay audit status lists them"`
	Files  []string `json:"files" doc:"files and directories whose changes are recorded; empty: accounts, keys, start scripts and the configuration of this agent"`
	Mounts []string `json:"mounts" doc:"mount points on which started programs and written files are recorded; empty: every real file system"`
	Poll   Duration `json:"poll" default:"15s" min:"1s" max:"1h" doc:"how often is looked at what the kernel does not announce: listening sockets, the state of the clock"`
}

// Counter is a counter in hardware that only rises, which tells the device that its audit log was set back.
type Counter struct {
	Kind   string `json:"kind" default:"none" one:"none|tpm" doc:"none: a log that was set back is noticed at the next receipt; tpm: at the next start, by a counter of the TPM 2.0 that rises at each start and at most hourly"`
	Device string `json:"device" default:"/dev/tpmrm0" doc:"tpm: the kernel's resource manager" trust:"whoever may open it can raise the counter, which looks like a log that was set back; nobody can lower it"`
	Index  int    `json:"index" default:"25168812" min:"25165824" max:"29360127" doc:"tpm: NV index of the counter, in the owner's range 0x01800000 to 0x01bfffff; defined when missing, which needs an owner hierarchy without a password"`
}

// Intake says how the product's own programs write into the audit log.
type Intake struct {
	Socket        string `json:"socket" default:"${run_dir}/audit.sock" path:"socket" doc:"unix socket that takes one JSON object for each event; mode 0600, or 0666 when a user besides root, or a group, may write: then the kernel's word about the writer decides; empty: there is none" trust:"whoever may write fills the log at his rate, under app. codes and his own user id"`
	AllowUIDs     []int  `json:"allow_uids" default:"[0]" doc:"numeric user ids that may write; the kernel tells who writes"`
	AllowGIDs     []int  `json:"allow_gids" default:"[]" doc:"numeric group ids that may write, as primary group of the program"`
	Rate          int    `json:"rate" default:"20" min:"1" max:"1000" doc:"events a second that one user id may write through each socket, ten times as many at once; for events that are durable at once a tenth of it; what exceeds it is counted and the count recorded"`
	Devlog        string `json:"devlog" path:"socket" doc:"syslog socket to read, usually /dev/log, for lines of RFC 3164 and RFC 5424; empty: there is none; every program may write to it" trust:"whoever creates it first gets the lines; on a device with a syslog daemon that is the daemon"`
	DevlogReplace bool   `json:"devlog_replace" default:"false" doc:"take the place of a syslog socket that another program reads; false: leave it alone and report a problem"`
	DevlogLevel   string `json:"devlog_level" default:"notice" one:"emerg|alert|crit|err|warning|notice|info|debug" doc:"the least severe syslog line that is recorded; lines of the facilities auth, authpriv, audit and alert always are"`
}

// Control is the local command socket.
type Control struct {
	Socket    string `json:"socket" default:"${run_dir}/control.sock" path:"socket" doc:"unix socket the local commands use; mode 0600, or 0666 when allow_uids names a user besides root: then the kernel's word about the caller decides" trust:"whoever can connect and is in allow_uids can install, roll back and reboot, never skip a check"`
	AllowUIDs []int  `json:"allow_uids" default:"[0]" doc:"numeric user ids that may give commands; the kernel tells who calls"`
}

// HasUpdate reports whether the device is updated by this agent.
func (c *Config) HasUpdate() bool { return c.Update.MetadataURL != "" }

// DefaultFile is where the configuration is looked for when --config does not say otherwise.
const DefaultFile = "/etc/backstay/config.json"
