#!/bin/sh
# toolchain.sh: prints the name by which rustup has the toolchain of rust-toolchain.toml, when that is not its own; installs it
# when it is missing and can be had. A machine without rustup uses what it has, if the version fits.
cd "$(dirname "$0")/../.." || exit
if rustc --version >/dev/null 2>&1; then exit; fi
wanted=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
case $(RUSTUP_TOOLCHAIN=stable rustc --version 2>/dev/null) in
"rustc $wanted "*) echo stable; exit ;;
esac
rustup toolchain install >&2 || echo "Rust $wanted is missing and could not be installed" >&2
