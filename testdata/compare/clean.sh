# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# Part of mkroots.sh: what every clean root has beside its base. Many entries are traps: they look bad and are not.

clean_common() {
  local p t=${kind:0:1}T
  for p in usr/bin/app usr/sbin/snmpd usr/sbin/mosquitto usr/bin/redis-server usr/sbin/smbd usr/bin/rsync usr/sbin/nginx usr/sbin/dnsmasq \
    usr/sbin/hostapd usr/sbin/wpa_supplicant usr/sbin/xinetd usr/sbin/inetd usr/sbin/miniupnpd usr/sbin/nft usr/sbin/exportfs usr/sbin/rpc.nfsd \
    usr/sbin/bluetoothd usr/bin/swupdate usr/sbin/easycwmpd; do
    [[ -e $R/$p ]] || prog $p
  done
  [[ $kind != alpine ]] || { put etc/init.d/sysctl 755 <<<$'#!/sbin/openrc-run\nstart() { sysctl --system; }'
    mkdir -p "$R/etc/runlevels/boot"; ln -s /etc/init.d/sysctl "$R/etc/runlevels/boot/sysctl"; }
  [[ $kind != busybox ]] || start 03 sysctl "/bin/sh -c 'for f in /lib/sysctl.d/*.conf /etc/sysctl.d/*.conf; do sysctl -p \$f; done'"
  start 60 snmpd /usr/sbin/snmpd -f
  start 61 mosquitto /usr/sbin/mosquitto -c /etc/mosquitto/mosquitto.conf
  start 62 redis /usr/bin/redis-server /etc/redis/redis.conf
  start 63 smbd /usr/sbin/smbd --foreground
  start 64 rsyncd /usr/bin/rsync --daemon --no-detach
  start 65 dnsmasq /usr/sbin/dnsmasq -k
  start 66 hostapd /usr/sbin/hostapd /etc/hostapd/hostapd.conf
  start 67 wpa /usr/sbin/wpa_supplicant -i wlan1 -c /etc/wpa_supplicant/wpa_supplicant.conf
  start 68 xinetd /usr/sbin/xinetd -dontfork
  start 69 inetd /usr/sbin/inetd -i
  start 70 firewall /usr/sbin/nft -f /etc/nftables.conf
  start 71 miniupnpd /usr/sbin/miniupnpd -f /etc/miniupnpd/miniupnpd.conf
  start 72 nfs /usr/sbin/rpc.nfsd 8
  start 73 bluetooth /usr/sbin/bluetoothd -n
  start 74 swupdate '/usr/bin/swupdate -k /etc/swupdate.pem -u "-u https://updates.example.com"'
  start 75 cwmp /usr/sbin/easycwmpd -f
  [[ $kind == debian ]] || start 02 ntpd /usr/sbin/ntpd -n -p 192.0.2.123
  [[ $kind == debian ]] && { prog lib/systemd/systemd-timesyncd; printf '[Time]\nNTP=192.0.2.123\n' | put etc/systemd/timesyncd.conf
    mkdir -p "$R/etc/systemd/system/sysinit.target.wants"
    printf '[Service]\nExecStart=/lib/systemd/systemd-timesyncd\n[Install]\nWantedBy=sysinit.target\n' | put lib/systemd/system/systemd-timesyncd.service
    ln -sf /lib/systemd/system/systemd-timesyncd.service "$R/etc/systemd/system/sysinit.target.wants/systemd-timesyncd.service"; }

  put etc/inetd.conf <<<$'# comment\n#telnet\tstream\ttcp\tnowait\troot\t/usr/sbin/telnetd\ttelnetd -i\n8081\tstream\ttcp\tnowait\twww-data\t/usr/bin/app\tapp --status'
  trap_ ${t}01 /etc/inetd.conf 'telnet in a comment'
  start 76 app '/usr/bin/app'; printf '# telnetd is not started any more\nkillall telnetd 2>/dev/null\npidof dropbear >/dev/null || echo no telnetd here\n' | add "$at"
  trap_ ${t}02 "/$at" 'a start script that stops telnetd and talks about it'
  [[ $kind == alpine ]] && sed -i '/killall\|pidof/d' "$R/$at"
  put etc/xinetd.conf <<<$'defaults\n{\n}\nincludedir /etc/xinetd.d'
  put etc/xinetd.d/telnet <<<$'service telnet\n{\n\tdisable = yes\n\tserver = /usr/sbin/in.telnetd\n\tuser = root\n\twait = no\n}'
  trap_ ${t}03 /etc/xinetd.d/telnet 'telnet in xinetd, disabled'
  put usr/bin/gen-cert.sh 755 <<<$'#!/bin/sh\ngrep -q -- "-----BEGIN PRIVATE KEY-----" "$1" || exit 1'
  trap_ ${t}04 /usr/bin/gen-cert.sh 'a script that looks for the marker of private keys'
  mkdir -p "$R/etc/ssl/device"
  openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes256 -pass pass:"$(openssl rand -hex 16)" 2>/dev/null | put etc/ssl/device/backup.key 600
  trap_ ${t}05 /etc/ssl/device/backup.key 'a private key that is encrypted'
  openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2>/dev/null | openssl pkey -pubout | put etc/ssl/device/server.key
  trap_ ${t}06 /etc/ssl/device/server.key 'a public key in a file called server.key'
  openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2>/dev/null | put usr/share/doc/app/example.pem
  trap_ ${t}07 /usr/share/doc/app/example.pem 'a test vector below the documentation'
  mkdir -p "$R/root/.ssh"; chmod 700 "$R/root/.ssh"; put root/.ssh/authorized_keys 600 </dev/null
  trap_ ${t}08 /root/.ssh/authorized_keys 'an empty list of keys'
  put etc/snmp/snmpd.conf 600 <<<$'# rocommunity public\nrouser monitor priv\nagentAddress udp:127.0.0.1:161'
  trap_ ${t}09 /etc/snmp/snmpd.conf 'the default community in a comment'
  put etc/mosquitto/mosquitto.conf <<<$'# allow_anonymous true\nper_listener_settings false\nallow_anonymous false\nlistener 1883 127.0.0.1\npassword_file /etc/mosquitto/passwd'
  trap_ ${t}10 /etc/mosquitto/mosquitto.conf 'a broker without TLS, on loopback, with passwords'
  put etc/mosquitto/passwd 600 </dev/null
  put etc/redis/redis.conf 640 <<<$'# bind 0.0.0.0\nbind 127.0.0.1 -::1\nprotected-mode yes'
  trap_ ${t}11 /etc/redis/redis.conf 'a database on loopback'
  put etc/samba/smb.conf <<<$'[global]\n\tserver min protocol = SMB2_10\n\tmap to guest = never\n[media]\n\tpath = /data/media\n\tguest ok = no\n;\tguest ok = yes'
  trap_ ${t}12 /etc/samba/smb.conf 'guest ok in a comment'
  put etc/rsyncd.conf <<<$'[media]\n\tpath = /data/media\n\tread only = yes\n\tauth users = backup\n\tsecrets file = /etc/rsyncd.secrets\n\thosts allow = 192.168.1.0/24'
  put etc/rsyncd.secrets 600 </dev/null
  put etc/exports <<<$'# /srv *(rw,no_root_squash)\n/data/media 192.168.1.0/24(ro,root_squash,secure)'
  trap_ ${t}13 /etc/exports 'an export for everybody in a comment'
  put etc/dnsmasq.conf <<<$'#enable-tftp\ninterface=br-lan\nbind-interfaces\nlocal-service'
  trap_ ${t}14 /etc/dnsmasq.conf 'enable-tftp in a comment'
  put etc/miniupnpd/miniupnpd.conf <<<$'secure_mode=yes\nenable_natpmp=no\nallow 1024-65535 192.168.1.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535'
  trap_ ${t}15 /etc/miniupnpd/miniupnpd.conf 'a deny rule for all ports'
  put etc/httpd.conf 600 <<<$'H:/www\nA:192.168.1.0/24\nD:*\nE404:/404.html\n#/:admin:admin'
  trap_ ${t}16 /etc/httpd.conf 'a password in a comment'
  put etc/hostapd/hostapd.conf 600 <<<$'interface=wlan0\nssid=device\n#wpa=0\nwpa=2\nwpa_key_mgmt=WPA-EAP\nrsn_pairwise=CCMP\nieee8021x=1\nieee80211w=2\nwps_state=0\nauth_server_addr=192.168.1.2\nctrl_interface=/run/hostapd\nctrl_interface_group=0'
  trap_ ${t}17 /etc/hostapd/hostapd.conf 'wpa=0 in a comment'
  put etc/wpa_supplicant/wpa_supplicant.conf 600 <<<$'ctrl_interface=DIR=/run/wpa_supplicant GROUP=root\nupdate_config=0\n#network={\n#\tssid="open"\n#\tkey_mgmt=NONE\n#}\nnetwork={\n\tdisabled=1\n\tssid="guest"\n\tkey_mgmt=NONE\n}'
  trap_ ${t}18 /etc/wpa_supplicant/wpa_supplicant.conf 'an open network that is disabled'
  put etc/bluetooth/main.conf <<<$'[General]\nDiscoverableTimeout = 180\nPairableTimeout = 180\nJustWorksRepairing = never\n#JustWorksRepairing = always'
  put etc/nftables.conf 755 <<<$'#!/usr/sbin/nft -f\nflush ruleset\ntable inet filter {\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n\t\tiif lo accept\n\t\tct state established,related accept\n\t\ticmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept\n\t\tip saddr 192.168.1.0/24 tcp dport 22 accept\n\t}\n\tchain forward {\n\t\ttype filter hook forward priority 0; policy drop;\n\t}\n\tchain output {\n\t\ttype filter hook output priority 0; policy accept;\n\t}\n}'
  trap_ ${t}19 /etc/nftables.conf 'an output chain that accepts, beside an input chain that drops'
  put etc/sysctl.d/10-vendor.conf <<<$'kernel.kptr_restrict = 0\nkernel.sysrq = 1'
  put etc/sysctl.d/90-device.conf <<<$'kernel.kptr_restrict = 2\nkernel/sysrq = 0\n-kernel.yama.ptrace_scope = 1\nkernel.randomize_va_space=2\nkernel.dmesg_restrict = 1\nfs.suid_dumpable = 0\nkernel.unprivileged_bpf_disabled = 2\nnet.core.bpf_jit_harden = 2\nfs.protected_symlinks = 1\nfs.protected_hardlinks = 1\nfs.protected_fifos = 2\nfs.protected_regular = 2\nnet.ipv4.tcp_syncookies = 1\nnet.ipv4.conf.all.rp_filter = 1\nnet.ipv4.conf.default.rp_filter = 1\nkernel.core_pattern = |/bin/false\nkernel.panic = 10\nnet.ipv4.conf.all.secure_redirects = 0\nnet.ipv4.conf.default.secure_redirects = 0'
  trap_ ${t}20 /etc/sysctl.d/10-vendor.conf 'weak kernel parameters that a later file sets right'
  put etc/fstab <<<$'# /dev/sda1 /media/usb vfat defaults 0 0\nproc /proc proc nosuid,nodev,noexec,hidepid=2 0 0\nsysfs /sys sysfs nosuid,nodev,noexec 0 0\ntmpfs /tmp tmpfs nosuid,nodev,noexec,mode=1777 0 0\ntmpfs /var/tmp tmpfs nosuid,nodev,noexec,mode=1777 0 0\ntmpfs /run tmpfs nosuid,nodev,mode=0755 0 0\ntmpfs /dev/shm tmpfs nosuid,nodev,noexec,mode=1777 0 0\n/dev/mmcblk0p3 /data ext4 nosuid,nodev,noexec 0 2\n/dev/mmcblk1p1 /media/sd vfat noauto,nosuid,nodev,noexec 0 0'
  trap_ ${t}21 /etc/fstab 'removable media without options, in a comment'
  put boot/uEnv.txt 600 <<<$'#bootargs=console=ttyS0,115200 init=/bin/sh\nbootargs=console=ttyS0,115200 root=/dev/mmcblk0p2 ro rootwait quiet loglevel=3\nbootdelay=-2'
  trap_ ${t}22 /boot/uEnv.txt 'init=/bin/sh in a comment; the word debug nowhere in force'
  kernel_config | put boot/config-6.1.0 600
  trap_ ${t}35 /boot/config-6.1.0 'a kernel of 6.1: options that came later are no defects'
  put etc/crontabs/root 600 <<<$'# */5 * * * * nc -l -p 4444 -e /bin/sh\n17 3 * * * /usr/bin/app --rotate'
  trap_ ${t}23 /etc/crontabs/root 'a shell on a port, in a comment'
  chmod 700 "$R/etc/crontabs"
  if [[ $kind == debian ]]; then put etc/sudoers 440 <<<$'Defaults env_reset\nroot ALL=(ALL:ALL) ALL\n# %wheel ALL=(ALL) NOPASSWD: ALL\n%sudo ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d'
    trap_ ${t}24 /etc/sudoers 'NOPASSWD in a comment'; fi
  prog usr/bin/telnet; trap_ ${t}25 /usr/bin/telnet 'a client, which is no service'
  put usr/share/doc/telnetd/README <<<'Start with: telnetd -l /bin/sh'
  put etc/init.d/README <<<'Scripts named S??* are started. telnetd used to be one: /usr/sbin/telnetd -F'
  trap_ ${t}26 /etc/init.d/README 'a text beside the start scripts'
  if [[ $kind == busybox ]]; then put etc/init.d/S99ftp 644 <<<$'#!/bin/sh\ntcpsvd 0 21 ftpd -w / &'
    trap_ ${t}27 /etc/init.d/S99ftp 'a start script that is not executable: rcS skips it'; fi
  if [[ $kind == busybox ]]; then
    mkdir -p "$R/usr/local/bin"; put etc/profile <<<$'export PATH=/usr/sbin:/usr/bin:/sbin:/bin\nPATH=$PATH:/usr/local/bin\numask 027'
  fi
  # doors that are as they are on every system
  mknod -m 666 "$R/dev/null" c 1 3; mknod -m 666 "$R/dev/zero" c 1 5; mknod -m 666 "$R/dev/tty" c 5 0; mknod -m 600 "$R/dev/console" c 5 1; mknod -m 666 "$R/dev/urandom" c 1 9
  trap_ ${t}28 /dev/null 'device nodes that everybody may use'
  mkfifo -m 666 "$R/run/app.fifo"; trap_ ${t}29 /run/app.fifo 'a FIFO, not a file, below a volatile directory'
  ln -s /tmp "$R/var/cache-tmp"; trap_ ${t}30 /var/cache-tmp 'a link, whose own mode is always 0777'
  trap_ ${t}31 /var/mail 'a setgid directory: that is no program'
  put etc/app.conf 664 <<<$'password_min_length = 12\nverify_peer = yes\nupdate_url = https://updates.example.com/'
  trap_ ${t}32 /etc/app.conf 'writable by its group, which is root, and the word password'
  put usr/bin/update-now 755 <<<$'#!/bin/sh\n# never use curl -k or wget --no-check-certificate here\nexec /usr/bin/swupdate -k /etc/swupdate.pem -d "-u https://updates.example.com/fw.swu"'
  trap_ ${t}33 /usr/bin/update-now 'curl -k in a comment; -k of swupdate means a key'
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -subj "/CN=updates.example.com" -days 3650 2>/dev/null | put etc/swupdate.pem
  put etc/config/wireless <<<$'config wifi-device radio0\n\toption disabled 1\nconfig wifi-iface guest\n\toption device radio0\n\toption disabled 1\n\toption mode ap\n\toption encryption none'
  trap_ ${t}34 /etc/config/wireless 'an open network on a radio that is off'
  put etc/modprobe.d/blacklist.conf <<<$'blacklist usb-storage\ninstall usb-storage /bin/false\ninstall dccp /bin/false\ninstall sctp /bin/false\ninstall rds /bin/false\ninstall tipc /bin/false'
  put etc/config/easycwmp <<<$'config acs\n\toption url https://acs.example.com/\n\toption username unit\nconfig local\n\toption enable 1'
  put etc/ssl/openssl.cnf <<<$'openssl_conf = default_conf\n[default_conf]\nssl_conf = ssl_sect\n[ssl_sect]\nsystem_default = system_default_sect\n[system_default_sect]\nMinProtocol = TLSv1.2\nCipherString = DEFAULT:@SECLEVEL=2'
}

# kernel_config is a hardened kernel for x86-64 of version 6.1.
kernel_config() {
  printf '#\n# Automatically generated file; DO NOT EDIT.\n# Linux/x86 6.1.0 Kernel Configuration\n#\nCONFIG_CC_VERSION_TEXT="gcc (Debian 12.2.0-14) 12.2.0"\nCONFIG_GCC_VERSION=120200\nCONFIG_CLANG_VERSION=0\n'
  local o
  for o in X86_64 64BIT MMU MODULES STACKPROTECTOR STACKPROTECTOR_STRONG STRICT_KERNEL_RWX STRICT_MODULE_RWX VMAP_STACK FORTIFY_SOURCE HARDENED_USERCOPY \
    SLAB_FREELIST_HARDENED SLAB_FREELIST_RANDOM SHUFFLE_PAGE_ALLOCATOR INIT_STACK_ALL_ZERO INIT_ON_ALLOC_DEFAULT_ON INIT_ON_FREE_DEFAULT_ON \
    RANDOMIZE_BASE RANDOMIZE_MEMORY RANDOMIZE_KSTACK_OFFSET_DEFAULT STRICT_DEVMEM IO_STRICT_DEVMEM SECCOMP SECCOMP_FILTER SYN_COOKIES \
    BPF_UNPRIV_DEFAULT_OFF BPF_JIT_ALWAYS_ON SECURITY SECURITY_DMESG_RESTRICT SECURITY_YAMA SECURITY_LOCKDOWN_LSM SECURITY_LOCKDOWN_LSM_EARLY \
    LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY SECURITY_LANDLOCK SECURITY_APPARMOR MODULE_SIG MODULE_SIG_ALL MODULE_SIG_FORCE MODULE_SIG_SHA512 DEBUG_LIST \
    BUG BUG_ON_DATA_CORRUPTION SCHED_STACK_END_CHECK PAGE_TABLE_ISOLATION RETPOLINE THREAD_INFO_IN_TASK PANIC_ON_OOPS DM_VERITY \
    LEGACY_VSYSCALL_NONE DEBUG_WX SLUB_DEBUG SYSCTL PROC_FS SYSFS BPF_SYSCALL NET INET; do echo "CONFIG_$o=y"; done
  for o in DEVMEM DEVKMEM KEXEC KEXEC_FILE PROC_KCORE DEBUG_FS COMPAT_BRK HIBERNATION BINFMT_MISC LEGACY_PTYS USERFAULTFD X86_VSYSCALL_EMULATION \
    MODIFY_LDT_SYSCALL LDISC_AUTOLOAD KGDB KPROBES FTRACE MAGIC_SYSRQ IP_DCCP SLAB_MERGE_DEFAULT INET_DIAG ACPI_CUSTOM_METHOD DEVPORT PROC_VMCORE; do
    echo "# CONFIG_$o is not set"; done
  echo CONFIG_DEFAULT_MMAP_MIN_ADDR=65536
}
