#!/bin/bash
# Time limit: 300 s
#
# The whole service, client to client: round trips beside a raw cache-line ping-pong, steps and streams of a model, and
# raw attention. The model is ATTND_DEMO_MODEL, else what `make run` keeps, else a tiny one.
set -u
build=${ATTND_BUILD:-build}
model=${ATTND_DEMO_MODEL:-${XDG_CACHE_HOME:-$HOME/.cache}/attnd/SmolLM2-135M-Instruct.Q4_1.gguf}
made=
if [ ! -r "$model" ]; then
	made=$(mktemp --suffix .gguf)
	trap 'rm -f "$made"' EXIT
	"$build/attnquant" make-tiny -o "$made" >/dev/null || exit 1
	model=$made
fi
"$build/attnbench" echo --spawn &&
	"$build/attnbench" echo --spawn --size 4096 &&
	"$build/attnbench" step --spawn --model "$model" &&
	"$build/attnbench" generate --spawn --model "$model" --clients 4 &&
	for kv in f32 bf16 int8; do "$build/attnbench" attend --spawn --kv $kv || exit 1; done
