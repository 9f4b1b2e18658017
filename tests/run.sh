#!/bin/bash
# Runs tests and counts them.
#
#   tests/run.sh [--show] SUITE:FOLDER:KINDS ...
#
# SUITE is a name to print, FOLDER holds that suite's build, KINDS is a list of folders below tests/; the kind
# "checks" stands for the tools/check-* scripts. A test is a built tests/KIND/test_*.c or fuzz_*.c, or a script
# tests/KIND/test_*.sh or .py; it exits 0 (passed), 77 (skipped) or anything else (failed), and may print TAP,
# in which case its single cases are counted. TESTS picks those with it in their path. --show prints output.
#
# A test has two minutes, or what it says in its first lines: "Time limit: 300 s". Logs are kept in
# FOLDER/tests/log. Tests of the quick kinds run side by side, one per processor; the others alone, because
# they measure time or fill the machine. The last line is "N passed, N failed, N skipped".
set -u
cd "$(dirname "$0")/.."

quick_kinds=" checks unit kernels fuzz abi sim "

# One test: FOLDER SUITE KIND FILE. Leaves "passed failed skipped" in its log's .count file.
run_one() {
	local folder=$1 suite=$2 kind=$3 file=$4
	local name=${file##*/}; name=${name%.*}
	local log=$folder/tests/log/$kind-$name.log
	local command=$file limit status start_ms took_ms reason
	local passed failed skipped planned

	[[ $file == *.c ]] && command=$folder/tests/$kind/$name
	limit=$(head -n 30 "$file" | sed -n 's/.*Time limit: \([0-9]*\) s.*/\1/p;' | head -n 1)
	start_ms=$(date +%s%3N)
	CMOCKA_MESSAGE_OUTPUT=TAP ATTND_BUILD=$(realpath "$folder") ATTND_SUITE=$suite \
		ATTND_DATA=${ATTND_DATA-../shared} UBSAN_OPTIONS=${UBSAN_OPTIONS-print_stacktrace=1} \
		timeout -k 5 "${limit:-120}" "$command" >"$log" 2>&1 </dev/null
	status=$?
	took_ms=$(($(date +%s%3N) - start_ms))

	skipped=$(grep -cE '^(not )?ok [0-9]+.*# *SKIP' "$log")
	failed=$(grep -E '^not ok [0-9]+' "$log" | grep -vcE '# *SKIP')
	passed=$(grep -E '^ok [0-9]+' "$log" | grep -vcE '# *SKIP')
	planned=$(grep -m 1 -oE '^1\.\.[0-9]+$' "$log")
	reason=
	case $status in
	0) [ $((passed + failed + skipped)) != 0 ] || passed=1 ;;
	77)
		[ $((passed + failed + skipped)) != 0 ] || skipped=1 ;;
	124 | 137)
		failed=$((failed + 1)) reason="over its time limit of ${limit:-120} s" ;;
	*)
		[ "$failed" != 0 ] || failed=1
		reason="exit status $status" ;;
	esac
	if [ "$failed" = 0 ] && [ $((passed + skipped)) -lt "${planned#1..}" ] 2>/dev/null; then
		failed=1 reason="ended after $((passed + skipped)) of ${planned#1..} cases"
	fi
	if [ "$skipped" != 0 ] && [ -z "$reason" ]; then
		reason=$({ grep -i '^skip' "$log" || grep -iE '# *skip' "$log" || tail -n 1 "$log"; } | head -n 1 |
			sed 's/.*# *SKIP *//; s/^[Ss][Kk][Ii][Pp][a-z]*:* *//')
	fi
	echo "$passed $failed $skipped" >"${log%.log}.count"

	local verdict=pass
	[ "$skipped" = 0 ] || [ "$passed" != 0 ] || verdict=skip
	[ "$failed" = 0 ] || verdict=FAIL
	printf '%-5s %-34s %4s tests %7s s  %s\n' "$verdict" "$suite $kind/${name#test_}" \
		$((passed + failed + skipped)) "$((took_ms / 1000)).$(printf %03d $((took_ms % 1000)))" "$reason"
	if [ "$failed" != 0 ]; then
		grep -vE '^ok ' "$log" | tail -n 25 | sed 's/^/      | /'
		echo "      log: $log"
	elif [ -n "${SHOW-}" ]; then
		cat "$log"
	fi
}

if [ "${1-}" = --one ]; then
	run_one "$2" "$3" "$4" "$5"
	exit 0
fi

[ "${1-}" = --show ] && { export SHOW=1; shift; }
list=$(mktemp) counts=$(mktemp)
trap 'rm -f "$list" "$counts"' EXIT
for suite in "$@"; do
	IFS=: read -r name folder kinds <<<"$suite"
	rm -rf "$folder/tests/log" && mkdir -p "$folder/tests/log"
	for kind in $kinds; do
		pattern="tests/$kind/test_*.c tests/$kind/fuzz_*.c tests/$kind/bench_*.c tests/$kind/bench_*.sh tests/$kind/test_*.sh
			tests/$kind/test_*.py"
		[ "$kind" != checks ] || pattern="tools/check-*"
		for file in $pattern; do
			[ -e "$file" ] && [ "$file" != tests/fuzz/fuzz_main.c ] || continue
			[[ $file == *"${TESTS-}"* ]] && printf '%s\0%s\0%s\0%s\0' "$folder" "$name" "$kind" "$file" \
				>>"$list.$([[ $quick_kinds == *" $kind "* ]] && echo quick || echo alone)"
		done
	done
done

for speed in quick alone; do
	[ -e "$list.$speed" ] || continue
	xargs -0 -n 4 -P "$([ $speed = quick ] && nproc || echo 1)" "$0" --one <"$list.$speed"
	rm -f "$list.$speed"
done

for suite in "$@"; do
	IFS=: read -r name folder kinds <<<"$suite"
	cat "$folder"/tests/log/*.count 2>/dev/null
done >"$counts"
awk '{ p += $1; f += $2; s += $3 }
	END { printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f != 0 }' "$counts"
