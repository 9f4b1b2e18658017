#!/bin/sh
# Makes sure that what the build, the tests or the demonstration need is there.
#
#   tools/setup.sh build|check|run          install what is missing, where this may be done
#   tools/setup.sh --have build|check|run   only look; say what is missing and how to get it
#
# Looking takes a few milliseconds. Installing is done by apt, as root or by a sudo that asks no password;
# elsewhere the command is printed, and the script stops with status 1.
set -eu
cd "$(dirname "$0")/.."

# needed by   how it is looked for    Debian package   what it is for
needs() {
	cat <<-'TABLE'
	build  command:gcc             gcc              the C compiler
	build  file:stdio.h            libc6-dev        the C library's headers
	build  command:ar              binutils         archives, symbols
	build  command:pkg-config      pkg-config       finds the libraries below
	build  package:hwloc           libhwloc-dev     the machine's topology
	build  package:libcjson        libcjson-dev     reads and writes JSON
	build  package:inih            libinih-dev      reads the configuration file
	build  package:smartcols       libsmartcols-dev tables on the terminal
	build  package:libsodium       libsodium-dev    seals what goes over the network
	build  package:liburing        liburing-dev     the network, with few system calls
	check  package:cmocka          libcmocka-dev    the unit tests
	check  command:g++             g++              public headers are valid C++
	check  command:python3         python3          system tests
	check  command:strace          strace           counts the system calls of a request
	run    command:python3         python3          fetches the demonstration model
	run    module:pip              python3-pip      fetches the demonstration model
	run    file:ssl/certs/ca-certificates.crt ca-certificates fetches the demonstration model
	TABLE
}

found() {
	case $1 in
	package:hwloc) [ "${HWLOC-1}" != 1 ] || pkg-config --exists hwloc 2>/dev/null ;;
	package:liburing) [ "${URING-auto}" = 0 ] || pkg-config --exists liburing 2>/dev/null ;;
	package:*) pkg-config --exists "${1#package:}" 2>/dev/null ;;
	command:*) command -v "${1#command:}" >/dev/null ;;
	module:*) python3 -c "import ${1#module:}" 2>/dev/null ;;
	file:ssl/*) [ -e "/etc/${1#file:}" ] ;;
	file:*) [ -e "/usr/include/${1#file:}" ] ;;
	esac
}

# Prints "package purpose" for each thing that $1 needs and that is not there.
missing() {
	needs | while read -r goal probe package purpose; do
		[ "$goal" = build ] || [ "$goal" = "$1" ] || continue
		found "$probe" || echo "$package $purpose"
	done
}

look_only=
if [ "${1-}" = --have ]; then
	look_only=1
	shift
fi
goal=${1:?usage: tools/setup.sh [--have] build|check|run}

lacking=$(missing "$goal")
[ -n "$lacking" ] || exit 0

packages=$(echo "$lacking" | cut -d' ' -f1 | sort -u | tr '\n' ' ')
install="apt-get install -y --no-install-recommends $packages"

echo "Missing for '$goal':"
echo "$lacking" | sort -u | while read -r package purpose; do
	printf '  %-18s %s\n' "$package" "$purpose"
done

as_root=
if [ "$(id -u)" != 0 ]; then
	as_root=sudo
fi
if [ -n "$look_only" ] || ! command -v apt-get >/dev/null ||
	{ [ -n "$as_root" ] && ! sudo -n true 2>/dev/null; }; then
	echo "Please install them; on Debian:"
	echo "  ${as_root:+sudo }$install"
	exit 1
fi

echo "Installing: $packages"
export DEBIAN_FRONTEND=noninteractive
if ! $as_root $install </dev/null >/dev/null 2>&1; then
	# Lists of packages that are absent or out of date are the usual reason.
	$as_root apt-get update -q </dev/null
	$as_root $install </dev/null
fi

lacking=$(missing "$goal")
if [ -n "$lacking" ]; then
	echo "Still missing after the installation: $lacking"
	exit 1
fi
echo "Installed: $packages"
