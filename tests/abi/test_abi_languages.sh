#!/bin/sh
# The public headers, each alone, as C11, C17 and C++11 to C++20 with every warning an error; and a C++ program that
# links with the library and calls it.
set -eu
build=${ATTND_BUILD:-build}
warnings="-Wall -Wextra -Wpedantic -Wshadow -Werror"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tried=0

for header in client-lib/include/attnd/*.h; do
	for compiler in gcc clang g++ clang++; do
		command -v $compiler >/dev/null || continue
		case $compiler in
		*++) language=c++ standards="c++11 c++14 c++17 c++20" ;;
		*) language=c standards="c11 c17" ;;
		esac
		# A compiler without its own standard headers is not one.
		echo '#include <stdint.h>' | $compiler -x $language -c -o /dev/null - 2>/dev/null || continue
		for standard in $standards; do
			echo "#include \"${header#client-lib/include/}\"" |
				$compiler -std=$standard $warnings -Iclient-lib/include -x $language -c -o /dev/null - ||
				{ echo "$header is not $standard for $compiler"; exit 1; }
			tried=$((tried + 1))
		done
	done
done

case ${ATTND_SUITE:-plain} in plain | clang) ;; *) echo "$tried compilations"; exit 0 ;; esac
command -v g++ >/dev/null || { echo "SKIP: no g++ to link a C++ program with ($tried compilations were fine)"; exit 77; }
cat >"$work/main.cc" <<'EOF'
#include <attnd/attnd.h>
#include <cstdio>
#include <cstring>

int main()
{
	struct attnd_options options = attnd_options();
	struct attnd_client *client = nullptr;

	options.struct_bytes = sizeof(options);
	options.address = "shm:/nowhere/attnd.sock";
	if (attnd_connect(&client, &options) == 0 || client || !std::strstr(attnd_error(), "/nowhere/attnd.sock"))
		return 1;
	std::printf("attnd %s, status 0 is %s\n", attnd_version(), attnd_status_name(ATTND_OK));
	return 0;
}
EOF
g++ $warnings -Iclient-lib/include -o "$work/main" "$work/main.cc" -L"$build" -lattnd
LD_LIBRARY_PATH=$build "$work/main"
echo "$tried compilations"
