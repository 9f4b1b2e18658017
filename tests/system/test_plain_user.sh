#!/bin/bash
# A plain user starts the daemon, without huge pages, without root: it serves, and says which fast path it lacks and why.
set -u
build=${ATTND_BUILD:-build}
skip() { echo "# skip: $1"; exit 77; }
fail() { echo "not ok 1 - plain_user: $1"; cat "$folder/log"; exit 1; }

[ "$(id -u)" = 0 ] || skip "not root, so every other test is this one"
as_nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
command -v setpriv >/dev/null || skip "no setpriv"
"${as_nobody[@]}" test -x "$build/attnd" || skip "the build folder is not readable by others"

folder=$(mktemp -d)
trap 'kill "$daemon" 2>/dev/null; wait; rm -rf "$folder"' EXIT
"$build/attnquant" make-tiny -o "$folder/tiny.gguf" >/dev/null || fail "no model"
chown -R 65534:65534 "$folder"
"${as_nobody[@]}" "$build/attnd" -c /dev/null -o daemon.runtime_dir="$folder" -o kv.pool=64M \
	-o model.tiny.path="$folder/tiny.gguf" 2>"$folder/log" &
daemon=$!
for _ in $(seq 300); do
	[ -S "$folder/attnd.sock" ] && grep -q " ready " "$folder/log" && break
	sleep 0.1
done
answer=$("${as_nobody[@]}" "$build/attnrun" --address "shm:$folder/attnd.sock" --prompt Hello -n 8) || fail "no answer"
[ -n "$answer" ] || fail "an empty answer"
grep -q 'missing what="cpu_dma_latency" why=' "$folder/log" || fail "it does not say what it lacks"
kill -TERM $daemon
wait $daemon || fail "it did not end cleanly"
echo "1..1"
echo "ok 1 - plain_user"
