#!/bin/sh
# softhsm.sh COMMAND… runs COMMAND with SoftHSM's softhsm2-util on PATH, and the path of its PKCS#11 module in SOFTHSM2_MODULE.
#
#   1. softhsm2-util on PATH, and the module that SOFTHSM2_MODULE names or that is where distributions put it;
#   2. .cache/softhsm in this checkout, unpacked once from Debian's packages softhsm2 and libsofthsm2, without being root.
#
# SoftHSM needs OpenSSL's libcrypto and SQLite, which it takes from the system.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
dir=$root/.cache/softhsm

fail() {
	echo "softhsm.sh: $1" >&2
	cat >&2 <<'HELP'
softhsm.sh: writ's tests of PKCS#11 need SoftHSM, and a C compiler for cgo. Any one of these will do:
  - Debian, Ubuntu: apt-get install softhsm2, or apt-get update and let this script unpack it into .cache
  - elsewhere: the package is called softhsm; if its module is in an unusual place, name it in SOFTHSM2_MODULE
HELP
	exit 1
}

# find_module prints the module below a prefix.
find_module() {
	for path in "$1"/usr/lib/softhsm/libsofthsm2.so "$1"/usr/lib/*/softhsm/libsofthsm2.so "$1"/usr/lib64/pkcs11/libsofthsm2.so \
		"$1"/opt/homebrew/lib/softhsm/libsofthsm2.so "$1"/usr/local/lib/softhsm/libsofthsm2.so; do
		if [ -e "$path" ]; then
			echo "$path"
			return
		fi
	done
	return 1
}

# unpack fetches Debian's packages and makes a softhsm2-util that knows where its module is. It appears whole or not at all.
unpack() {
	command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1 || fail "no softhsm2-util here, and no apt-get to fetch it with"
	mkdir -p "$root/.cache"
	tmp=$(mktemp -d "$root/.cache/softhsm.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	echo "softhsm.sh: fetching Debian's softhsm2 once into $dir" >&2
	(cd "$tmp" && apt-get download softhsm2 libsofthsm2) >&2 || fail "apt-get could not download softhsm2 and libsofthsm2: run apt-get update"
	for package in "$tmp"/*.deb; do
		dpkg -x "$package" "$tmp/new" || fail "$package could not be unpacked"
	done
	find_module "$tmp/new" >/dev/null || fail "there is no libsofthsm2.so in Debian's libsofthsm2"
	mkdir "$tmp/new/bin"
	cat >"$tmp/new/bin/softhsm2-util" <<'UTIL'
#!/bin/sh
exec "$(dirname -- "$0")/../usr/bin/softhsm2-util" --module "$SOFTHSM2_MODULE" "$@"
UTIL
	chmod 0755 "$tmp/new/bin/softhsm2-util"
	mv -T "$tmp/new" "$dir" 2>/dev/null || [ -x "$dir/bin/softhsm2-util" ] || fail "cannot make $dir"
	rm -rf "$tmp"
	trap - EXIT
}

[ $# -gt 0 ] || fail "which command is to be run?"
if command -v softhsm2-util >/dev/null 2>&1; then
	[ -n "${SOFTHSM2_MODULE:-}" ] || SOFTHSM2_MODULE=$(find_module "") || fail "there is softhsm2-util, and no libsofthsm2.so: name it in SOFTHSM2_MODULE"
else
	[ -x "$dir/bin/softhsm2-util" ] || unpack
	SOFTHSM2_MODULE=$(find_module "$dir") || fail "$dir has no libsofthsm2.so: remove it and try again"
	PATH=$dir/bin:$PATH
fi
export PATH SOFTHSM2_MODULE
exec "$@"
