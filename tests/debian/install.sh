#!/bin/sh
# Installs the Debian programs that some tests need, as root or by password-less sudo; says so where it may not.
# Packages must not start services on the machine that runs the tests, so a policy-rc.d says no meanwhile.
set -eu
here=$(dirname "$0")
command -v dpkg-query >/dev/null 2>&1 || { echo "netdiag: not a Debian system: tests that need its programs will skip"; exit 0; }

missing=
while read -r package; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=absent
  [ "$state" = installed ] || missing="$missing $package"
done <"$here/packages.txt"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then as_root=
elif sudo -n true 2>/dev/null; then as_root="sudo -n"
else
  echo "netdiag: not installed, and this user may not install them (tests that need them will skip):$missing"
  exit 0
fi

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
  $as_root chmod 755 "$policy"
  trap '$as_root rm -f "$policy"' EXIT
fi
echo "netdiag: installing for the tests:$missing"
$as_root apt-get -qq update
# shellcheck disable=SC2086 # the list is meant to be split
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
