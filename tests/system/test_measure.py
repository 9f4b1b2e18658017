#!/usr/bin/env python3
"""attnquant measure from outside: the gates of the KV formats against float64 and on a real model, and what the command
refuses. Time limit: 300 s

    ATTND_BUILD=build tests/system/test_measure.py

Prints TAP. The model gates need SmolLM2-135M-Instruct (ATTND_DEMO_MODEL, or where `make run` keeps it) and WikiText-2 below
ATTND_DATA; without them they are skipped.
"""
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

BUILD = os.path.realpath(os.environ.get("ATTND_BUILD") or os.environ.get("O") or "build")
TOOL = os.path.join(BUILD, "attnquant")
DATA = os.path.realpath(os.environ.get("ATTND_DATA") or "../shared")
TEXT = os.path.join(DATA, "data/text/wikitext-2.test.txt")
DEMO_BYTES = 98362432
FAILED, USAGE, INTERRUPTED = 1, 2, 130

# The least cosine, as a mean over rows and heads, on each input; formats that the kernels do not have are left out.
COSINE = {"f32": 0.9999999, "bf16": 0.9999, "f16": 0.9999, "int8": 0.9999, "fp8": 0.999, "int4": 0.99}
# Ours, the peer's of the same bits, and by how much more ours may err on any one input; over all inputs it must err less. A scale for
# each 32 numbers, as the peer has, suits V of N(0, 1) whose weights are all the same.
RIVALS = {"int8": ("llama.cpp q8_0", 1.25), "int4": ("llama.cpp q4_0", 1.1)}
# On the model, whose weights are multiplied exactly so that only the cache differs: the most mean divergence, the most growth of
# perplexity in percent. Those of int4 are measured on more text, since a perplexity's change is known no better than its error.
MODEL_GATES = {"int8": (1e-3, 0.1), "int8/int4": (1e-3, 0.5)}
LONG_GATES = {"int4": (3e-3, 0.5)}

class Skip(Exception):
    pass


def run(*arguments, status=0, says="", **environment):
    """Standard output, after checking the exit status and what stands on standard error."""
    result = subprocess.run([TOOL, *arguments], capture_output=True, text=True, timeout=250,
                            env={**os.environ, **environment})
    assert result.returncode == status, f"{arguments}: exit {result.returncode}, not {status}\n{result.stderr}"
    assert says in result.stderr, f"{arguments}: '{says}' is not in\n{result.stderr}"
    return result.stdout


def measure(what, *arguments, **environment):
    return json.loads(run("measure", what, "--json", *arguments, **environment))


def attention(*arguments):
    """input name to format name to its figures"""
    said = measure("attention", *arguments)
    return {item["input"]: {row["name"]: row for row in item["formats"]} for item in said["inputs"]}


def known_formats():
    first = attention("-n", "8", "-i", "random")["random"]
    return [name for name, row in first.items() if not row["peer"]]


def check_cosines(inputs):
    for input_name, formats in inputs.items():
        for name, least in COSINE.items():
            if name in formats:
                cosine = formats[name]["cosine"]
                print(f"# {input_name}, {name}: cosine {cosine:.7f}")
                assert cosine >= least, f"{input_name}, {name}: cosine {cosine:.7f} below {least}"


def mean_error(inputs, name):
    """The geometric mean over the inputs, so that each weighs the same."""
    return math.exp(sum(math.log(formats[name]["rmse"]) for formats in inputs.values()) / len(inputs))


def check_peers(inputs):
    """The rivals are no straw men: a rotation costs little where there is nothing to spread, and helps where there is."""
    for peer, _ in RIVALS.values():
        plain, turned = ({i: formats[name]["rmse"] for i, formats in inputs.items()} for name in (peer, peer + ", rotated"))
        assert turned["random"] < 1.2 * plain["random"] and turned["outlier-K"] < 0.8 * plain["outlier-K"], (plain, turned)
    assert inputs["random"]["llama.cpp q8_0"]["rmse"] < 0.015 and inputs["random"]["llama.cpp q4_0"]["rmse"] < 0.2


def check_rivals(inputs):
    for ours, (theirs, slack) in RIVALS.items():
        if ours not in inputs["random"]:
            continue
        for peer in (theirs, theirs + ", rotated"):
            mine, other = mean_error(inputs, ours), mean_error(inputs, peer)
            print(f"# {ours}: relative error {mine:.3g}, {peer}: {other:.3g}")
            assert mine < other, f"{ours} errs by {mine:.3g}, {peer} by {other:.3g}"
            for input_name, formats in inputs.items():
                mine, other = formats[ours]["rmse"], formats[peer]["rmse"]
                assert mine < slack * other, f"{input_name}: {ours} errs by {mine:.3g}, {peer} by {other:.3g}"


# ---- attention --------------------------------------------------------------------------------------------------


def check_shape(*shape):
    inputs = attention(*shape)
    assert sorted(inputs) == ["flat", "outlier-K", "random", "sink-token"]
    for formats in inputs.values():
        assert formats["f32"]["rmse"] < 1e-5 and formats["f32"]["bits"] == 32
        assert formats["int8"]["rmse"] > formats["bf16"]["rmse"] > formats["f32"]["rmse"]
        assert formats["int8"]["cosine_least"] <= formats["int8"]["cosine"]
    check_cosines(inputs)
    check_peers(inputs)
    check_rivals(inputs)


def case_gates_128(place):
    """head dimension 128: every format keeps its cosine, and errs less than llama.cpp's of the same bits"""
    check_shape("--tokens", "2048")


def case_gates_64(place):
    """the same with head dimension 64"""
    check_shape("--tokens", "1000", "--rows", "16", "--dim", "64", "--heads", "6", "--kv-heads", "2")


def case_flat(place):
    """131,072 tokens of nearly the same weight"""
    shape = ("--heads", "2", "--kv-heads", "1", "--rows", "2", "--dim", "64")
    inputs = attention("--input", "flat", *shape)
    assert measure("attention", "--input", "flat", "--kv", "f32", *shape)["inputs"][0]["tokens"] == 131072
    check_cosines(inputs)


def case_same_again(place):
    """the figures are a function of the command line; K and V may differ in format"""
    shape = ("--tokens", "200", "--kv", "int8/bf16,int8,bf16")
    once, again = attention(*shape), attention(*shape)
    assert once == again
    errors = [once["random"][name]["rmse"] for name in ("bf16", "int8/bf16", "int8")]
    assert errors == sorted(errors) and len(set(errors)) == 3, errors
    plain = attention("--tokens", "200", "--kv", "f32", "--exact-q")["random"]["llama.cpp q8_0"]["rmse"]
    assert plain < once["random"]["llama.cpp q8_0"]["rmse"]


# ---- models -----------------------------------------------------------------------------------------------------


def case_tiny(place):
    """a tiny model: its own sentence is no surprise to it, and formats differ as they should"""
    model, text = place.path("tiny.gguf"), place.path("text.txt")
    run("make-tiny", "-o", model)
    with open(text, "w") as file:
        file.write(40 * " This small model was made by attnquant from random numbers; it knows only one sentence, yet every "
                   "part of the machine works to say it.")
    said = measure("model", "--model", model, "--text", text, "--tokens", "600", "--context", "200",
                   "--kv", "all", "--weights", "F32,Q8_0,Q4_0")
    assert said["tokens"] == 600 and said["scored"] == 3 * 99, said
    runs = {(row["weights"], row["kv"]): row for row in said["runs"][1:]}
    reference = said["runs"][0]
    assert reference["reference"] and reference["divergence"] == 0
    assert 1 <= reference["perplexity"] < 5, reference["perplexity"]
    # Weights of float32 as float32 again: the very bits.
    assert runs["F32", "f32"]["divergence"] == 0 and runs["F32", "f32"]["change_percent"] == 0
    assert 0 < runs["F32", "int8"]["divergence"] < 1e-3
    assert runs["Q4_0", "f32"]["divergence"] > runs["Q8_0", "f32"]["divergence"] > 0
    assert runs["Q4_0", "f32"]["weight_bytes"] < runs["Q8_0", "f32"]["weight_bytes"] < reference["weight_bytes"]
    exact = measure("model", "-m", model, "-t", text, "-n", "64", "-c", "64", "-w", "F32,Q8_0", "--kv", "int8", "--exact")
    assert [(row["weights"], row["kv"]) for row in exact["runs"]] == [("F32", "f32"), ("F32", "int8")] * 2 + [("Q8_0", "f32")]
    assert [row["reference"] for row in exact["runs"]] == [True] + 4 * [False]
    table = run("measure", "model", "-m", model, "-t", text, "-n", "64", "-c", "64", "-w", "none", "--kv", "int8")
    assert "reference" in table and "int8" in table and "Q8_0" not in table, table
    # Other text is a surprise, so the figure above is no accident.
    with open(text, "w") as file:
        file.write("Nobody taught the poor machine these words. " * 20)
    other = measure("model", "-m", model, "-t", text, "-n", "64", "-c", "64", "-w", "none", "--kv", "none")
    assert other["runs"][0]["perplexity"] > 1000 and len(other["runs"]) == 1


def demo_model():
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(home, "attnd")
    said = os.environ.get("ATTND_DEMO_MODEL")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for path in [said] if said else [os.path.join(folder, name) for name in names if ".gguf" in name]:
        if os.path.isfile(path) and os.path.getsize(path) == DEMO_BYTES:
            return path
    raise Skip("SmolLM2-135M-Instruct.Q4_1.gguf is neither ATTND_DEMO_MODEL nor in the cache of `make run`")


def real_model():
    if os.environ.get("ATTND_SUITE", "plain") != "plain":
        raise Skip("135 million weights are too many for a sanitizer; the plain suite runs them")
    if not os.path.exists(TEXT):
        raise Skip(f"WikiText-2 is not at {TEXT}")
    return demo_model()


def check_model(rows, gates):
    for row in rows:
        print(f"# {row['weights']}, {row['kv']}: mean divergence {row['divergence']:.3g}, perplexity "
              f"{row['change_percent']:+.3f} % +- {row['change_error_percent']:.3f} %, same best token "
              f"{row['same_best_percent']:.2f} %")
    for row in rows[:len(gates)]:
        divergence, growth = gates[row["kv"]]
        assert 0 < row["divergence"] <= divergence, row
        assert row["change_percent"] <= growth, row


def case_real(place):
    """SmolLM2 on WikiText-2: divergence and perplexity under quantized caches"""
    formats = list(MODEL_GATES)
    said = measure("model", "--model", real_model(), "--tokens", "2048", "--kv", ",".join(formats), "--weights", "none",
                   "--exact", ATTND_DATA=DATA)
    assert said["tokens"] == 2048 and said["context"] == 512
    assert 10 < said["runs"][0]["perplexity"] < 30, said["runs"][0]
    assert [(row["weights"], row["kv"]) for row in said["runs"]] == [
        (weights, kv) for weights in ("F32", "Q4_1") for kv in ("f32", *formats)]
    check_model(said["runs"][1:], MODEL_GATES)


def case_real_int4(place):
    """the same with int4 for K and V, on more text"""
    exact = place.path("exact.gguf")
    run("quantize", real_model(), exact, "F32")
    said = measure("model", "--model", exact, "--tokens", "8192", "--kv", ",".join(LONG_GATES), "--weights", "none",
                   ATTND_DATA=DATA)
    assert said["tokens"] == 8192 and [row["kv"] for row in said["runs"]] == ["f32", *LONG_GATES]
    check_model(said["runs"][1:], LONG_GATES)


# ---- what is wrong ----------------------------------------------------------------------------------------------


def case_refusals(place):
    """each wrong command line and file has its own sentence and exit code"""
    model, text, empty = place.path("tiny.gguf"), place.path("short.txt"), place.path("empty.txt")
    run("make-tiny", "-o", model)
    with open(text, "w") as file:
        file.write("Hello.")
    with open(empty, "w"):
        pass
    run("measure", status=USAGE, says="Usage")
    run("measure", "nonsense", status=USAGE, says="'nonsense'")
    run("measure", "attention", "--kv", "int9", status=USAGE, says="no KV format 'int9'; there are: f32")
    run("measure", "attention", "--kv", "int8/", status=USAGE, says="no KV format ''")
    run("measure", "attention", "--dim", "33", status=USAGE, says="head dimension 33")
    run("measure", "attention", "--heads", "3", status=USAGE, says="2 KV heads for 3 heads")
    run("measure", "attention", "--tokens", "4", status=USAGE, says="8 rows cannot attend where there are 4 tokens")
    run("measure", "attention", "--input", "odd", status=USAGE, says="--input takes one of random")
    run("measure", "attention", "extra", status=USAGE, says="'extra'")
    run("measure", "model", status=USAGE, says="--model FILE.gguf is needed")
    run("measure", "model", "-m", place.path("nothing.gguf"), status=FAILED, says="No such file")
    run("measure", "model", "-m", text, status=FAILED, says="short.txt")
    run("measure", "model", "-m", model, status=FAILED, says="wikitext-2.test.txt is not there", ATTND_DATA=place.path("no"))
    run("measure", "model", "-m", model, "-t", text, status=FAILED, says="a chunk has 512")
    run("measure", "model", "-m", model, "-t", empty, status=FAILED, says="empty")
    run("measure", "model", "-m", model, "-t", text, "-c", "3", status=USAGE, says="--context takes")
    run("measure", "model", "-m", model, "-t", text, "-w", "Q9", status=USAGE, says="no type 'Q9'")
    run("measure", "model", "-m", model, "-t", text, "-n", "4", "-c", "4", "-w", "Q8_0", status=FAILED,
        says="TMPDIR", TMPDIR=place.path("no"))
    assert "--exact-q" in run("measure", "attention", "--help")
    assert "--weights" in run("measure", "model", "--help")
    assert "attention" in run("measure", "--help") and "measure" in run("--help")


def case_interrupted(place):
    """an interrupted measurement leaves no file behind"""
    model, text, folder = place.path("tiny.gguf"), place.path("text.txt"), place.path("temporary")
    os.mkdir(folder)
    run("make-tiny", "-o", model)
    with open(text, "w") as file:
        file.write("All work and no play makes a model dull. " * 40000)
    child = subprocess.Popen([TOOL, "measure", "model", "-m", model, "-t", text, "-n", "0"], stdout=subprocess.DEVNULL,
                             env={**os.environ, "TMPDIR": folder})
    until = time.monotonic() + 60
    while not os.listdir(folder) and time.monotonic() < until and child.poll() is None:
        time.sleep(0.01)
    assert os.listdir(folder), "no temporary folder was made"
    child.send_signal(signal.SIGINT)
    assert child.wait(30) == INTERRUPTED
    assert os.listdir(folder) == []


class Place:
    def __init__(self, folder):
        self.folder = folder

    def path(self, name):
        return os.path.join(self.folder, name)


def main():
    cases = [value for name, value in globals().items() if name.startswith("case_")]
    failed = 0
    print(f"1..{len(cases)}")
    for number, case in enumerate(cases, 1):
        folder = tempfile.mkdtemp(prefix="attnd-measure-")
        try:
            case(Place(folder))
            print(f"ok {number} - {case.__doc__}")
        except Skip as reason:
            print(f"ok {number} - {case.__doc__} # SKIP {reason}")
        except Exception as problem:
            failed += 1
            print(f"not ok {number} - {case.__doc__}")
            print("\n".join("# " + line for line in f"{type(problem).__name__}: {problem}".splitlines()))
            if "-v" in sys.argv:
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        sys.stdout.flush()
    return 1 if failed else 0


sys.exit(main())
