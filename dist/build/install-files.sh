#!/bin/sh
# install-files.sh BUILT DESTDIR PREFIX: what `make install` does: binaries, man pages, completions, systemd's unit, and the
# files for the other init systems under share/longshore, from where their install.sh takes them. Starts nothing.
set -eu
cd "$(dirname "$0")/.."
built=$1 destdir=$2 prefix=$3
[ -x "$built/longshore-agent" ] || { echo "install: make release comes first" >&2; exit 1; }
root=$destdir$prefix
umask 022

put() { install -D -m "$1" "$2" "$root/$3"; }
for program in longshore-agent longshore-panel; do
	[ ! -e "$built/$program" ] || put 755 "$built/$program" "bin/$program"
	put 644 "man/$program.8" "share/man/man8/$program.8"
done
put 644 completions/longshore-agent.bash share/bash-completion/completions/longshore-agent
put 644 completions/longshore-agent.zsh share/zsh/site-functions/_longshore-agent
put 644 completions/longshore-agent.fish share/fish/vendor_completions.d/longshore-agent.fish
share=$root/share/longshore
for path in agent.env install.sh Dockerfile systemd openrc runit s6 sysv dinit procd; do
	mkdir -p "$share"
	rm -rf "${share:?}/$path"
	cp -R "$path" "$share/$path"
done
# Units name the program where it is.
find "$share" -type f ! -name install.sh -exec sed -i "s|/usr/local/bin/|$prefix/bin/|g" {} +
install -D -m 644 "$share/systemd/longshore-agent.service" "$root/lib/systemd/system/longshore-agent.service"
