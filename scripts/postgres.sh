#!/bin/sh
# Prints the directory of PostgreSQL's server programs (initdb, postgres), and installs them when there are none.
#
#   1. initdb on PATH;
#   2. the newest /usr/lib/postgresql/*/bin, where Debian and Ubuntu have them;
#   3. apt-get install postgresql, as root on Debian or Ubuntu.
#
# The tests of ca/store start a server of their own in a temporary directory; one that runs already is left alone. The
# directory is the only thing on stdout.
set -eu

find_bin() {
	if path=$(command -v initdb 2>/dev/null); then
		dirname "$path"
		return
	fi
	# shellcheck disable=SC2012 # names of versions have neither spaces nor newlines
	path=$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -t / -k 5 -n | tail -n 1)
	[ -n "$path" ] && dirname "$path"
}

fail() {
	echo "postgres.sh: $1" >&2
	cat >&2 <<'HELP'
postgres.sh: writ's tests of the PostgreSQL ledger need a real server. Any one of these will do:
  - put initdb and postgres on PATH (version 13 or newer)
  - Debian, Ubuntu: apt-get install postgresql (as root, this script does it)
  - elsewhere: the package that has initdb, often called postgresql-server
HELP
	exit 1
}

find_bin && exit 0
command -v apt-get >/dev/null 2>&1 || fail "no initdb here, and no apt-get to install it"
[ "$(id -u)" = 0 ] || fail "no initdb here, and only root can install it"
echo "postgres.sh: installing Debian's postgresql" >&2
export DEBIAN_FRONTEND=noninteractive
# The package would make and start a cluster that nobody asked for.
mkdir -p /etc/postgresql-common/createcluster.d
[ -e /etc/postgresql-common/createcluster.d/writ.conf ] || echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/writ.conf
{ apt-get update && apt-get install -y --no-install-recommends postgresql; } >&2 || fail "apt-get could not install postgresql"
find_bin || fail "postgresql is installed, but there is no initdb in /usr/lib/postgresql"
