# The first process of a machine of the lab, before systemd takes its place. Called in namespaces of its own: processes,
# mounts, host name, IPC and control groups; the network is that of the host it stands for.
#
# Nothing that it mounts leads to the host's kernel settings: there is no sysfs at all, /proc/sys is read-only, and the file
# that puts a host to sleep is an ordinary one. It refuses to go on if that is not so.
#
#   $1 the folder of the machine   $2 the folder of the lab   $3 the program   $4 the program that listens
set -eu
folder=$1 lab=$2 program=$3 listener=$4
root=$folder/root

mount --make-rprivate /
mkdir -p "$root"
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p usr proc sys dev etc/systemd/system run var/lib var/log var/tmp tmp root old ".upper/usr" ".upper/work"
chmod 1777 tmp var/tmp
ln -s /run var/run
for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done

# The host's programs, with ours among them; what is written there is the machine's own.
mount -t overlay -o "lowerdir=/usr,upperdir=$root/.upper/usr,workdir=$root/.upper/work" overlay usr
: >usr/bin/marmot
mount --bind "$program" usr/bin/marmot
: >usr/bin/marmot-lab-listener
mount --bind "$listener" usr/bin/marmot-lab-listener

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
if [ -e proc/sysrq-trigger ]; then mount --bind /dev/null proc/sysrq-trigger; fi

mount -t tmpfs -o mode=755 tmpfs sys
mkdir -p sys/fs/cgroup sys/power sys/class sys/devices sys/kernel
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs sys/power
echo 'freeze mem' >sys/power/state
echo 's2idle [deep]' >sys/power/mem_sleep
mount -o remount,ro sys

mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
for name in null zero full random urandom tty net/tun; do
  : >"dev/$name"
  mount --bind "/dev/$name" "dev/$name"
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd

mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/lab "run/lab/folder"
mount --bind "$lab" run/lab/folder
mkfifo run/lab/wake

cat >etc/passwd <<'END'
root:x:0:0:root:/root:/bin/sh
messagebus:x:100:100::/nonexistent:/usr/sbin/nologin
polkitd:x:101:101::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin
END
cat >etc/group <<'END'
root:x:0:
tty:x:5:
messagebus:x:100:
polkitd:x:101:
nogroup:x:65534:
END
printf 'passwd: files\ngroup: files\nhosts: files\n' >etc/nsswitch.conf
echo 0123456789abcdef0123456789abcdef >etc/machine-id
echo 'NAME=lab' >etc/os-release
cp /etc/ld.so.cache etc/
mkdir -p etc/polkit-1/rules.d var/lib/polkit-1
cp -R "$folder/etc/." etc/

# What a sleep is here: a note before and after, and between them the time until somebody opens the pipe.
mkdir -p usr/lib/systemd/system-sleep
cat >usr/lib/systemd/system-sleep/lab <<'END'
#!/bin/sh
read -r now rest </proc/uptime
echo "$1 $now $(cat /sys/power/state)" >>/run/lab/slept
if [ "$1" = post ]; then cat /run/lab/wake; fi
exit 0
END
chmod 755 usr/lib/systemd/system-sleep/lab

cd etc/systemd/system
for unit in hibernate hybrid-sleep suspend-then-hibernate; do ln -s /dev/null "systemd-$unit.service"; done
for unit in udevd udev-trigger hwdb-update timesyncd networkd resolved binfmt; do
  ln -s /dev/null "systemd-$unit.service"
done
mkdir systemd-suspend.service.d
cat >systemd-suspend.service.d/lab.conf <<'END'
[Service]
ExecStartPre=/bin/sh -c '[ "$$(stat -f -c %%T /sys/power/state)" = tmpfs ]'
END
cat >default.target <<'END'
[Unit]
Wants=dbus.service systemd-logind.service polkit.service multi-user.target
After=dbus.service systemd-logind.service
AllowIsolate=yes
END
cat >multi-user.target <<'END'
[Unit]
AllowIsolate=yes
END
cd "$root"

pivot_root . old
umount -l /old
rmdir /old
[ "$(stat -f -c %T /sys/power/state)" = tmpfs ] || exit 9
if grep -q ' - sysfs ' /proc/self/mountinfo; then exit 9; fi
# It can neither stop the host, nor load a module, nor set its clock.
exec setpriv --bounding-set=-sys_boot,-sys_module,-sys_rawio,-sys_time,-syslog \
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=lab \
  /usr/lib/systemd/systemd --log-target=console --show-status=no
