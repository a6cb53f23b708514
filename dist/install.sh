#!/bin/sh
# Installs the Longshore Agent as a service of whatever init system runs here, upgrades it, or removes it.
#
#   install.sh --panel-url URL --secret-file FILE [--node-id ID]   install, or upgrade and keep the settings
#   install.sh --uninstall [--purge]                               remove; --purge takes settings and data too
#
#   --panel-url URL      the Panel's address, wss://panel.example/agent; asked for when there is none yet
#   --node-id ID         this node's id; the host name when not given
#   --secret-file FILE   a file with the node's secret, which is copied to /etc/longshore/secret
#   --binary FILE        the Agent to install; the longshore-agent beside this script when not given
#   --init NAME          systemd, openrc, runit, s6, sysv, dinit or procd, instead of the one that is found
#   --group NAME         the group that may use the Engine's socket; the socket's own when not given
#   --prefix DIR         where bin/longshore-agent goes; /usr/local when not given
#   --no-start           install only
#   --dry-run            print what would be done and do nothing
#
# It may be repeated. An upgrade keeps the old program beside the new one as longshore-agent.old, and goes back to it when
# the new one is not ready within 30 seconds. Game servers run on through all of it.
set -eu
umask 022

ETC=/etc/longshore
DATA=/var/lib/longshore
ACCOUNT=longshore
PREFIX=/usr/local
READY_WITHIN=30
HERE=$(cd "$(dirname "$0")" && pwd)

PANEL_URL='' NODE_ID='' SECRET_FILE='' BINARY='' INIT='' GROUP='' DRY='' START=1 ACTION=install PURGE=''

say() { echo "install: $*"; }
fail() { echo "install: $*" >&2; exit 1; }
usage() { sed -n 's/^# \{0,1\}//; 2,18p' "$0"; }

# Does a thing, or says that it would.
run() {
	if [ -n "$DRY" ]; then echo "would: $*"; else "$@"; fi
}

have() { command -v "$1" >/dev/null 2>&1; }

# Writes standard input to a file with a mode and an owner, unless it says that already.
put() {
	new=$(cat; echo .)
	new=${new%.}
	if [ -n "$DRY" ]; then echo "would: write $1 ($2 $3)"; return 0; fi
	mkdir -p "$(dirname "$1")"
	(umask 077; printf %s "$new" >"$1.new")
	chown "$3" "$1.new"
	chmod "$2" "$1.new"
	mv -f "$1.new" "$1"
}

# A file of dist/, with the paths of this installation.
put_from() {
	[ -r "$HERE/$1" ] || fail "$HERE/$1 is missing: run this script from the unpacked archive"
	sed "s|/usr/local/bin/|$PREFIX/bin/|g" "$HERE/$1" | put "$2" "$3" root:root
}

while [ $# -gt 0 ]; do
	option=$1
	case $option in
	--panel-url=* | --node-id=* | --secret-file=* | --binary=* | --init=* | --group=* | --prefix=*)
		value=${option#*=}
		option=${option%%=*}
		;;
	--panel-url | --node-id | --secret-file | --binary | --init | --group | --prefix)
		[ $# -ge 2 ] || fail "$option needs a value"
		shift
		value=$1
		;;
	esac
	case $option in
	--panel-url) PANEL_URL=$value ;;
	--node-id) NODE_ID=$value ;;
	--secret-file) SECRET_FILE=$value ;;
	--binary) BINARY=$value ;;
	--init) INIT=$value ;;
	--group) GROUP=$value ;;
	--prefix) PREFIX=$value ;;
	--no-start) START='' ;;
	--dry-run) DRY=1 ;;
	--uninstall) ACTION=uninstall ;;
	--purge) PURGE=1 ;;
	-h | --help) usage; exit 0 ;;
	*) fail "$option: unknown; --help tells what there is" ;;
	esac
	shift
done

BIN=$PREFIX/bin/longshore-agent

# The init system that runs this machine.
find_init() {
	first=$(cat /proc/1/comm 2>/dev/null || true)
	if [ -d /run/systemd/system ]; then echo systemd
	elif [ -x /sbin/procd ] && [ -e /etc/openwrt_release ]; then echo procd
	elif [ "$first" = dinit ]; then echo dinit
	elif [ "$first" = s6-svscan ]; then echo s6
	elif [ "$first" = runit ] || [ "$first" = runsvdir ]; then echo runit
	elif [ -d /run/openrc ] && have openrc-run; then echo openrc
	elif [ -d /etc/init.d ]; then echo sysv
	else fail "no init system is known here; name one with --init"
	fi
}

# Where runsvdir or s6-svscan looks for services: what it was started with, else the usual places.
service_dir() {
	if [ -n "${SERVICE_DIR:-}" ]; then echo "$SERVICE_DIR"; return; fi
	for place in /etc/service /var/service /run/service /service; do
		if [ -d "$place" ]; then echo "$place"; return; fi
	done
	fail "no directory of services was found; name it in SERVICE_DIR"
}

# ---- what each init system does ---------------------------------------------------------------------------------

install_service() {
	case $INIT in
	systemd)
		put_from systemd/longshore-agent.service /etc/systemd/system/longshore-agent.service 0644
		# The unit may write to its own directory only.
		[ "$DATA" = /var/lib/longshore ] ||
			printf '[Service]\nReadWritePaths=%s\n' "$DATA" |
			put /etc/systemd/system/longshore-agent.service.d/data-dir.conf 0644 root:root
		run systemctl daemon-reload
		run systemctl enable --quiet longshore-agent.service
		;;
	openrc)
		put_from openrc/longshore-agent /etc/init.d/longshore-agent 0755
		run rc-update --quiet add longshore-agent default
		;;
	sysv)
		put_from sysv/longshore-agent /etc/init.d/longshore-agent 0755
		if have update-rc.d; then run update-rc.d longshore-agent defaults
		elif have chkconfig; then run chkconfig --add longshore-agent
		fi
		;;
	procd)
		put_from procd/longshore-agent /etc/init.d/longshore-agent 0755
		run /etc/init.d/longshore-agent enable
		;;
	dinit)
		put_from dinit/longshore-agent /etc/dinit.d/longshore-agent 0644
		;;
	runit | s6)
		definition=/etc/longshore/$INIT
		put_from "$INIT/run" "$definition/run" 0755
		put_from "$INIT/log/run" "$definition/log/run" 0755
		if [ "$INIT" = s6 ]; then
			put_from s6/notification-fd "$definition/notification-fd" 0644
			put_from s6/timeout-kill "$definition/timeout-kill" 0644
		fi
		;;
	esac
}

# Stops what runs, in order, and waits for its end: who answers after that is the new one.
halt_service() {
	case $INIT in
	systemd) [ ! -e /etc/systemd/system/longshore-agent.service ] || run systemctl stop longshore-agent.service || true ;;
	openrc) [ ! -e /etc/init.d/longshore-agent ] || run rc-service --quiet --ifstarted longshore-agent stop || true ;;
	sysv | procd) [ ! -e /etc/init.d/longshore-agent ] || run /etc/init.d/longshore-agent stop || true ;;
	dinit) [ ! -e /etc/dinit.d/longshore-agent ] || run dinitctl stop longshore-agent || true ;;
	runit | s6)
		service=$(service_dir)/longshore-agent
		if [ ! -e "$service" ]; then :
		elif [ "$INIT" = runit ]; then run sv -w 35 down "$service" || true
		else run s6-svc -wD -T 35000 -d "$service" || true
		fi
		;;
	esac
}

start_service() {
	case $INIT in
	systemd) run systemctl start --no-block longshore-agent.service ;;
	openrc) run rc-service --quiet longshore-agent start ;;
	sysv | procd) run /etc/init.d/longshore-agent start ;;
	dinit) run dinitctl enable longshore-agent || run dinitctl start longshore-agent ;;
	runit | s6)
		services=$(service_dir)
		if [ ! -e "$services/longshore-agent" ]; then
			run ln -sfn "/etc/longshore/$INIT" "$services/longshore-agent"
			[ "$INIT" = runit ] || run s6-svscanctl -a "$services"
		elif [ "$INIT" = runit ]; then run sv up "$services/longshore-agent"
		else run s6-svc -u "$services/longshore-agent"
		fi
		;;
	esac
}

stop_service() {
	case $INIT in
	systemd)
		run systemctl disable --quiet --now longshore-agent.service || true
		run rm -rf /etc/systemd/system/longshore-agent.service /etc/systemd/system/longshore-agent.service.d
		run systemctl daemon-reload
		;;
	openrc)
		[ ! -e /etc/init.d/longshore-agent ] || run rc-service --quiet --ifstarted longshore-agent stop || true
		run rc-update --quiet del longshore-agent default || true
		run rm -f /etc/init.d/longshore-agent
		;;
	sysv | procd)
		[ ! -e /etc/init.d/longshore-agent ] || run /etc/init.d/longshore-agent stop || true
		[ "$INIT" = sysv ] || run /etc/init.d/longshore-agent disable || true
		run rm -f /etc/init.d/longshore-agent
		if [ "$INIT" = sysv ] && have update-rc.d; then run update-rc.d longshore-agent remove || true
		elif [ "$INIT" = sysv ] && have chkconfig; then run chkconfig --del longshore-agent || true
		fi
		;;
	dinit)
		run dinitctl disable longshore-agent || true
		run dinitctl stop longshore-agent || true
		run rm -f /etc/dinit.d/longshore-agent
		;;
	runit | s6)
		services=$(service_dir)
		if [ -e "$services/longshore-agent" ]; then
			if [ "$INIT" = runit ]; then
				run sv -w 35 exit "$services/longshore-agent" || true
				run rm -f "$services/longshore-agent"
			else
				run s6-svc -wD -T 35000 -d "$services/longshore-agent" || true
				run rm -f "$services/longshore-agent"
				run s6-svscanctl -an "$services"
			fi
		fi
		# The supervisors end in their own time, and until then they write there.
		for _ in 1 2 3 4 5 6 7 8 9 10; do
			run rm -rf "/etc/longshore/$INIT" 2>/dev/null && break
			sleep 1
		done
		;;
	esac
}

# ---- the parts ---------------------------------------------------------------------------------------------------

# Adds the user, without a shell or a password, and puts it into the group of the Engine's socket.
make_user() {
	if ! grep -q "^$ACCOUNT:" /etc/group; then
		if have groupadd; then run groupadd --system "$ACCOUNT"
		elif have addgroup; then run addgroup -S "$ACCOUNT"
		else append /etc/group "$ACCOUNT:x:$(free_id):"
		fi
	fi
	if ! grep -q "^$ACCOUNT:" /etc/passwd; then
		if have useradd; then
			run useradd --system --gid "$ACCOUNT" --home-dir "$DATA" --no-create-home --shell /sbin/nologin "$ACCOUNT"
		elif have adduser; then run adduser -S -D -H -h "$DATA" -s /sbin/nologin -G "$ACCOUNT" "$ACCOUNT"
		else
			gid=$(sed -n "s/^$ACCOUNT:[^:]*:\([0-9]*\):.*/\1/p" /etc/group)
			append /etc/passwd "$ACCOUNT:x:$(free_id):${gid:-0}:Longshore Agent:$DATA:/bin/false"
		fi
	fi
	if [ -z "$GROUP" ]; then
		for socket in /run/docker.sock /var/run/docker.sock /run/podman/podman.sock; do
			if [ -S "$socket" ]; then
				# shellcheck disable=SC2012 # the names of groups are what is wanted, and stat(1) is not everywhere
				GROUP=$(ls -lLd "$socket" | awk '{ print $4 }')
				break
			fi
		done
	fi
	case $GROUP in
	'') say "no Engine's socket was found: put $ACCOUNT into its group when there is one, or use --group" ;;
	root) say "the Engine's socket belongs to the group root, which $ACCOUNT is not put into: see docs on the docker group" ;;
	*)
		if grep -q "^$GROUP:.*[:,]$ACCOUNT\(,\|\$\)" /etc/group; then :
		elif have usermod; then run usermod --append --groups "$GROUP" "$ACCOUNT"
		elif have addgroup; then run addgroup "$ACCOUNT" "$GROUP"
		else
			run sed -i "s/^\($GROUP:[^:]*:[^:]*:\)\$/\1$ACCOUNT/; s/^\($GROUP:[^:]*:[^:]*:..*\)\$/\1,$ACCOUNT/; s/,$ACCOUNT,$ACCOUNT\$/,$ACCOUNT/" /etc/group
		fi
		;;
	esac
}

append() {
	if [ -n "$DRY" ]; then echo "would: add $2 to $1"; else printf '%s\n' "$2" >>"$1"; fi
}

# A system id that neither file has.
free_id() {
	id=999
	while grep -q "^[^:]*:[^:]*:$id:" /etc/passwd /etc/group; do id=$((id - 1)); done
	echo "$id"
}

# Sets a key in the text of agent.env on standard input: in its line, commented or not, else at the end.
set_key() {
	awk -v key="$1" -v value="$2" '
		!done && ($0 ~ "^#? ?" key "=") { print key "=" value; done = 1; next }
		{ print }
		END { if (!done) print key "=" value }'
}

# Whether systemd gives the Agent its secret, so that only root needs to read the file.
has_credentials() {
	[ "$INIT" = systemd ] || return 1
	version=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
	[ "${version:-0}" -ge 247 ]
}

write_settings() {
	if [ -e "$ETC/agent.env" ]; then settings=$(cat "$ETC/agent.env"); else settings=$(cat "$HERE/agent.env"); fi
	had=$(printf '%s\n' "$settings" | sed -n 's/^PANEL_URL=//p')
	if [ -z "$PANEL_URL$had" ]; then
		[ -t 0 ] || fail "--panel-url is needed: where is the Panel?"
		printf 'The Panel'\''s address (wss://…): '
		read -r PANEL_URL
	fi
	[ -z "$PANEL_URL" ] || settings=$(printf '%s\n' "$settings" | set_key PANEL_URL "$PANEL_URL")
	[ -z "$NODE_ID" ] || settings=$(printf '%s\n' "$settings" | set_key NODE_ID "$NODE_ID")
	if [ ! -e "$ETC/secret" ] && [ -z "$SECRET_FILE" ]; then
		[ -t 0 ] || fail "--secret-file is needed: the Panel gives the node's secret when the node is added"
		printf 'The file with the node'\''s secret: '
		read -r SECRET_FILE
	fi
	if has_credentials; then owner=root:root mode=0600
	else
		owner=root:$ACCOUNT mode=0640
		settings=$(printf '%s\n' "$settings" | set_key AGENT_SECRET_FILE "$ETC/secret")
	fi
	chosen=$(printf '%s\n' "$settings" | sed -n 's/^DATA_DIR=//p' | tail -n 1)
	DATA=${chosen:-$DATA}
	run mkdir -p "$ETC" "$DATA"
	run chown "$ACCOUNT:$ACCOUNT" "$DATA"
	run chmod 0711 "$DATA"
	printf '%s\n' "$settings" | put "$ETC/agent.env" 0640 "root:$ACCOUNT"
	if [ -n "$SECRET_FILE" ]; then
		[ -r "$SECRET_FILE" ] || fail "$SECRET_FILE cannot be read"
		put "$ETC/secret" "$mode" "$owner" <"$SECRET_FILE"
	elif [ -z "$DRY" ]; then
		chown "$owner" "$ETC/secret"
		chmod "$mode" "$ETC/secret"
	fi
}

# Puts the program in place, the old one beside it. A running program's file may be replaced, not written to.
install_binary() {
	run mkdir -p "$PREFIX/bin"
	if [ -n "$DRY" ]; then echo "would: install $BINARY as $BIN"; return 0; fi
	OLD=''
	if [ -e "$BIN" ]; then
		if cmp -s "$BINARY" "$BIN"; then return 0; fi
		cp -p "$BIN" "$BIN.old.new"
		mv -f "$BIN.old.new" "$BIN.old"
		OLD=1
	fi
	cp "$BINARY" "$BIN.new"
	chmod 0755 "$BIN.new"
	mv -f "$BIN.new" "$BIN"
}

# Waits until the Agent answers for itself; that its Panel or its Engine is away does not count against it.
is_ready() {
	waited=0
	while [ $waited -lt $READY_WITHIN ]; do
		code=0
		"$BIN" status --config "$ETC/agent.env" >/dev/null 2>&1 || code=$?
		if [ $code -le 1 ]; then return 0; fi
		sleep 1
		waited=$((waited + 1))
	done
	return 1
}

# ---- what was asked for ------------------------------------------------------------------------------------------

[ -n "$DRY" ] || [ "$(id -u)" -eq 0 ] || fail "this takes root; --dry-run does not"
[ -n "$INIT" ] || INIT=$(find_init)
case $INIT in
systemd | openrc | runit | s6 | sysv | dinit | procd) ;;
*) fail "--init $INIT: expected systemd, openrc, runit, s6, sysv, dinit or procd" ;;
esac

if [ $ACTION = uninstall ]; then
	chosen=$(sed -n 's/^DATA_DIR=//p' "$ETC/agent.env" 2>/dev/null | tail -n 1)
	DATA=${chosen:-$DATA}
	stop_service
	run rm -f "$BIN" "$BIN.old"
	if [ -n "$PURGE" ]; then
		run rm -rf "$ETC" "$DATA"
		if have userdel; then run userdel "$ACCOUNT" || true; elif have deluser; then run deluser "$ACCOUNT" || true; fi
	fi
	say "removed; game servers run on${PURGE:+, their files are gone}"
	exit 0
fi

[ -n "$BINARY" ] || for place in "$HERE/longshore-agent" "$HERE/../longshore-agent"; do
	if [ -f "$place" ]; then BINARY=$place; break; fi
done
if [ -z "$BINARY" ] || [ ! -f "$BINARY" ]; then fail "there is no longshore-agent beside this script; name it with --binary"; fi
version=$("$BINARY" --version) || fail "$BINARY does not run on this machine"
say "$version for $INIT"

make_user
write_settings
install_binary
[ -z "$START" ] || halt_service
install_service
[ -n "$START" ] || { say "installed; not started"; exit 0; }
# One that fails to start is seen to below.
start_service || true
[ -z "$DRY" ] || exit 0
if is_ready; then say "ready"; exit 0; fi
if [ -n "${OLD:-}" ]; then
	say "not ready within $READY_WITHIN s: going back to the old program" >&2
	mv -f "$BIN" "$BIN.failed"
	cp -p "$BIN.old" "$BIN.new"
	mv -f "$BIN.new" "$BIN"
	halt_service
	start_service || true
	is_ready || fail "the old one is not ready either: see its log"
	fail "the old program runs again; the new one is kept as $BIN.failed"
fi
fail "not ready within $READY_WITHIN s: see its log, and longshore-agent doctor --config $ETC/agent.env"
