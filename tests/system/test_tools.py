#!/usr/bin/env python3
"""A stranger's way through the tools: help, mistakes, a model made on the spot, text, raw attention, measurements,
control, and that nothing stays behind. Time limit: 420 s

    ATTND_BUILD=build tests/system/test_tools.py [NAME...]

Prints TAP. Every daemon that is started here keeps its runtime folder below one temporary folder, which must be
empty after each case.
"""
import array
import json
import math
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

BUILD = os.path.realpath(os.environ.get("ATTND_BUILD") or os.environ.get("O") or "build")
TOOLS = ("attnrun", "attnctl", "attnbench", "attnquant")
COMMANDS = ("echo", "step", "generate", "attend", "load", "siege", "replay", "model")
ATTACKS = ("hello-flood", "wrong-key", "garbage", "slow-reader", "replay")
SOCKETS = ("tcp", "udp", "unix")
BOUND_S = 100
USAGE, FAILED, NO_DAEMON, INTERRUPTED = 2, 1, 3, 130


class Broken(Exception):
    """A case's verdict, with what was seen."""


def expect(truth, what, *seen):
    if not truth:
        raise Broken(what + "".join(f"\n{thing}" for thing in seen))


class World:
    """Where a case runs: the folder of its daemons, the model, and the environment of its programs."""

    def __init__(self, folder):
        self.folder = folder
        self.runtime = os.path.join(folder, "run")
        self.model = os.path.join(folder, "tiny.gguf")
        os.mkdir(self.runtime)
        self.env = {name: value for name, value in os.environ.items()
                    if name not in ("ATTND_ADDRESS", "XDG_RUNTIME_DIR")}
        self.env.update(TMPDIR=self.runtime, LC_ALL="C.UTF-8", NO_COLOR="1")

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self, tool, *options, **more):
        more.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen([os.path.join(BUILD, tool), *options], env=self.env, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **more)

    def run(self, tool, *options, status=0, text_in=None):
        """Runs a tool to its end; returns what it wrote to standard output and error."""
        done = subprocess.run([os.path.join(BUILD, tool), *options], env=self.env, input=text_in or b"",
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=BOUND_S)
        out, err = (part.decode(errors="replace") for part in (done.stdout, done.stderr))
        expect(done.returncode == status, f"{tool} {' '.join(options)}: status {done.returncode}, not {status}",
               out, err)
        return out, err

    def text(self, *options, **more):
        return self.run("attnrun", "--spawn", "--model", self.model, "--temp", "0", *options, **more)[0]

    def json(self, tool, *options):
        out, err = self.run(tool, *options)
        expect(not err, f"{tool} {' '.join(options)} writes to standard error", err)
        return json.loads(out)

    def left_behind(self):
        """Runtime folders that a daemon's end should have removed; it has a moment for that."""
        until = time.monotonic() + 10
        while os.listdir(self.runtime) and time.monotonic() < until:
            time.sleep(0.05)
        return os.listdir(self.runtime)


# ---- help and mistakes ------------------------------------------------------------------------------------


def case_help(world):
    """each tool and command explains itself"""
    for tool in TOOLS:
        out, _ = world.run(tool, "--help")
        expect(out.startswith(f"Usage: {tool}"), f"{tool} --help", out)
        out, _ = world.run(tool, "--version")
        expect(out.split()[0] == tool and len(out.split()) == 2, f"{tool} --version", out)
    for command in COMMANDS:
        out, _ = world.run("attnbench", command, "--help")
        expect(f"attnbench {command}" in out and "--json" in out, f"attnbench {command} --help", out)


def case_usage(world):
    """a wrong command line is status 2, with a sentence"""
    for tool, *options in (("attnrun", "--temp", "hot"), ("attnrun", "--nonsense"), ("attnrun", "a", "prompt"),
                           ("attnrun", "--spawn", "--prompt", "x"), ("attnrun", "--kv", "int3"),
                           ("attnrun", "-n", "0"), ("attnrun", "--spawn", "--address", "shm:/x"),
                           ("attnrun", "--daemon-option", "kv.pool=1G"), ("attnctl",), ("attnctl", "dance"),
                           ("attnctl", "status", "models"), ("attnbench",), ("attnbench", "dance"),
                           ("attnbench", "echo", "--size", "-1"), ("attnbench", "echo", "--transport", "pigeon"),
                           ("attnbench", "step", "--spawn"), ("attnbench", "attend", "--heads", "7"),
                           ("attnbench", "model"), ("attnbench", "model", "-m", "x", "-p", "0", "-n", "0"),
                           ("attnbench", "model", "-m", "x", "-t", "0"), ("attnbench", "model", "-m", "x", "-r", "0"),
                           ("attnbench", "model", "-m", "x", "-d", ","), ("attnbench", "model", "-m", "x", "-d", "1,b"),
                           ("attnbench", "model", "-m", "x", "--kv", "int8,int3"),
                           ("attnbench", "model", "-m", "x", "--decode", "guess"),
                           ("attnbench", "model", "--address", "shm:/x", "-t", "2"),
                           ("attnbench", "echo", "--spawn", "--sealed"),
                           ("attnbench", "echo", "--address", "attnd://localhost", "--sealed"),
                           ("attnbench", "echo", "--address", "attnd://localhost", "--transport", "udp"),
                           ("attnbench", "echo", "--spawn", "--key-file", "/x"), ("attnbench", "echo", "--sleep"),
                           ("attnctl", "--address", "attnd://localhost", "status"),
                           ("attnbench", "load", "--spawn", "--rate", "9"),
                           ("attnbench", "load", "--spawn", "--transport", "tcp"),
                           ("attnbench", "load", "--spawn", "--transport", "tcp", "--rate", "9", "--closed"),
                           ("attnbench", "load", "--spawn", "--transport", "tcp", "--rate", "9", "--baseline", "epoll"),
                           ("attnbench", "load", "--spawn", "--transport", "tcp", "--closed", "--baseline", "bare"),
                           ("attnbench", "load", "--spawn", "--transport", "tcp", "--closed", "--connections", "0"),
                           ("attnbench", "replay", "--spawn", "-m", "x"), ("attnbench", "replay", "--spawn", "--trace", "poisson"),
                           ("attnbench", "replay", "--spawn", "-m", "x", "--trace", "poisson", "--mix", "30,50,30"),
                           ("attnbench", "replay", "--spawn", "-m", "x", "--trace", "poisson", "--slack", "0.5,2"),
                           ("attnbench", "replay", "--spawn", "-m", "x", "--trace", "poisson", "--sessions", "0"),
                           ("attnbench", "siege"), ("attnbench", "siege", "--spawn"),
                           ("attnbench", "siege", "--spawn", "--transport", "unix"),
                           ("attnbench", "siege", "--spawn", "--transport", "tcp", "--attack", "dragons"),
                           ("attnbench", "siege", "--spawn", "--transport", "tcp", "--attack-rate", "0")):
        _, err = world.run(tool, *options, status=USAGE)
        expect(err.strip(), f"{tool} {' '.join(options)} says nothing")


def case_no_daemon(world):
    """where no daemon is, status 3 says so"""
    for address in ("attnd://127.0.0.1:1", f"attnd+unix:{world.path('none')}/net.sock"):
        world.run("attnrun", "--attend", "--address", address, status=NO_DAEMON)
        world.run("attnbench", "load", "--closed", "--address", address, status=NO_DAEMON)
    for tool, *options in (("attnctl", "status"), ("attnrun", "--attend"), ("attnbench", "echo")):
        _, err = world.run(tool, *options, "--address", f"shm:{world.path('none')}/attnd.sock", status=NO_DAEMON)
        expect("none" in err, f"{tool} does not say where it looked", err)


def case_bad_model(world):
    """a model that is not there, or is none, is named in the message"""
    missing, garbage, cut = world.path("missing.gguf"), world.path("garbage.gguf"), world.path("cut.gguf")
    with open(garbage, "wb") as file:
        file.write(b"GGUF" + bytes(range(256)) * 16)
    with open(world.model, "rb") as whole, open(cut, "wb") as file:
        file.write(whole.read()[:100000])
    for path in (missing, garbage, cut):
        out, err = world.run("attnrun", "--spawn", "--model", path, "--prompt", "x", status=FAILED)
        expect(not out, "something on standard output", out)
        expect(os.path.basename(path) in err, f"{path} is not named", err)
    world.run("attnbench", "step", "--spawn", "--model", missing, status=FAILED)
    _, err = world.run("attnctl", "--spawn", "--daemon-option", "kv.pool=many", "status", status=FAILED)
    expect("pool" in err, "a wrong setting is not named", err)


# ---- text -------------------------------------------------------------------------------------------------


def case_text(world):
    """text alone on standard output, the same each time, from option or standard input"""
    out, err = world.run("attnrun", "--spawn", "--model", world.model, "--prompt", "Hello", "-n", "40", "--temp", "0")
    expect(not err, "something on standard error", err)
    expect(len(out.split()) > 5, "hardly any text", out)
    expect(out == world.text("--prompt", "Hello", "-n", "40"), "another text the second time")
    expect(out == world.text("-n", "40", text_in=b"Hello"), "another text from standard input")
    expect(out.endswith("\n") and out.count("\n") == 1, "the text does not end with its line", out)
    short = world.text("--prompt", "Hello", "-n", "5").rstrip("\n")
    expect(short and out.startswith(short) and len(short) < len(out), "five tokens do not begin forty", short, out)
    expect(out == world.text("--prompt", "Hello", "-n", "40", "--kv", "f32"), "another text with an f32 cache")
    expect(world.text("--prompt", "", "-n", "5"), "no text from an empty prompt")


def case_sampling(world):
    """the seed decides what is drawn"""
    def draw(seed):
        return world.text("--prompt", "Hello", "-n", "12", "--temp", "50", "--seed", seed)

    first = draw("1")
    expect(first == draw("1"), "the same seed draws differently")
    expect(any(first != draw(seed) for seed in ("2", "3")), "other seeds draw the same", first)
    greedy = world.text("--prompt", "Hello", "-n", "12")
    expect(greedy == world.text("--prompt", "Hello", "-n", "12", "--temp", "50", "--top-k", "1"),
           "the likeliest of one is not the likeliest")


def case_chat(world):
    """a chat without a template is refused, or left out where that was asked for"""
    _, err = world.run("attnrun", "--spawn", "--model", world.model, "--chat", "--prompt", "x", status=FAILED)
    expect("template" in err, "the template is not mentioned", err)
    expect(world.text("--chat=auto", "--prompt", "Hello", "-n", "9") == world.text("--prompt", "Hello", "-n", "9"),
           "--chat=auto changes the text of a model without a template")


def case_stats(world):
    """--stats says on standard error where the time went"""
    out, err = world.run("attnrun", "--spawn", "--model", world.model, "--prompt", "Hello", "-n", "5", "--stats")
    for row in ("way in", "admit", "prompt", "each token", "way out"):
        expect(row in err, f"no row {row}", err)
    expect("way in" not in out, "statistics on standard output", out)


def case_deadline(world):
    """a deadline that cannot be met is refused or expires, by name"""
    _, err = world.run("attnrun", "--spawn", "--model", world.model, "--prompt", "Hello", "--deadline", "0.000001",
                       status=FAILED)
    expect("refused-deadline" in err or "expired" in err, "the status is not named", err)


# ---- raw attention ------------------------------------------------------------------------------------------


def npy(path, shape, numbers):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        array.array("f", numbers).tofile(file)


def read_npy(path):
    with open(path, "rb") as file:
        data = file.read()
    length, = struct.unpack_from("<H", data, 8)
    expect((10 + length) % 64 == 0, f"the numbers of {path} begin at {10 + length}")
    return data[10:10 + length].decode(), array.array("f", data[10 + length:])


def attention(q, k, v, rows, keys, heads, kv_heads, dim):
    """Causal attention in double precision; the queries are the last rows."""
    out = []
    for row in range(rows):
        for head in range(heads):
            kv = head // (heads // kv_heads)
            query = q[(row * heads + head) * dim:][:dim]
            seen = range(keys - rows + row + 1)
            scores = [sum(a * b for a, b in zip(query, k[(t * kv_heads + kv) * dim:][:dim])) / math.sqrt(dim)
                      for t in seen]
            weights = [math.exp(score - max(scores)) for score in scores]
            for i in range(dim):
                out.append(sum(w * v[(t * kv_heads + kv) * dim + i] for t, w in zip(seen, weights)) / sum(weights))
    return out


def case_attend_files(world):
    """attention on .npy files equals attention computed here"""
    rows, keys, heads, kv_heads, dim = 3, 70, 4, 2, 32
    random.seed(7)
    q, k, v = (array.array("f", [random.gauss(0, 1) for _ in range(count)])
               for count in (rows * heads * dim, keys * kv_heads * dim, keys * kv_heads * dim))
    npy(world.path("q.npy"), (rows, heads, dim), q)
    npy(world.path("k.npy"), (keys, kv_heads, dim), k)
    npy(world.path("v.npy"), (keys, kv_heads, dim), v)
    files = [f"--{name}={world.path(name)}.npy" for name in "qkv"]
    world.run("attnrun", "--spawn", "--attend", "--kv", "f32", *files, "--out", world.path("o.npy"), "--check")
    header, got = read_npy(world.path("o.npy"))
    expect(f"({rows}, {heads}, {dim}" in header.replace(",", ", ").replace("  ", " "), "O has another shape", header)
    wanted = attention(q, k, v, rows, keys, heads, kv_heads, dim)
    worst = max(abs(a - b) for a, b in zip(got, wanted))
    expect(len(got) == len(wanted) and worst <= 1e-5 * max(map(abs, v)), f"O is off by {worst}")
    _, err = world.run("attnrun", "--spawn", "--attend", files[0], files[1], f"--v={world.path('q.npy')}",
                       status=FAILED)
    expect("shape" in err, "shapes that do not fit are not called so", err)


def case_attend_random(world):
    """attention on random tensors stays within each cache format's bound, also in many parts"""
    for kv in ("f32", "bf16", "int8"):
        out, _ = world.run("attnrun", "--spawn", "--attend", "--kv", kv, "--check", "--kv-rows", "300", "--q-rows", "5")
        expect("good" in out and "NOT GOOD" not in out, f"{kv} is not good", out)
    world.run("attnrun", "--spawn", "--attend", "--check", "--kv-rows", "3000", "--window", "100", "--soft-cap", "20")
    a, b = (world.run("attnrun", "--spawn", "--attend", "--seed", "5")[0] for _ in range(2))
    expect(a == b, "the same seed gives another answer", a, b)


# ---- control ------------------------------------------------------------------------------------------------


def case_control(world):
    """attnctl shows a private daemon, as tables and as JSON"""
    for command in ("status", "sessions", "topology", "models"):
        out, _ = world.run("attnctl", "--spawn", "--model", world.model, command)
        expect(out.strip(), f"{command} shows nothing")
        answer = world.json("attnctl", "--spawn", "--model", world.model, "--json", command)
        expect(isinstance(answer, dict) and "error" not in answer, f"{command}", answer)
    answer = world.json("attnctl", "--spawn", "--model", world.model, "--json", "models")
    expect(answer["models"][0]["architecture"] == "llama", "the model", answer)


def case_view(world):
    """attnctl view and attnrun --timeline show what was done, from memory"""
    folder = tempfile.mkdtemp(dir=world.runtime)
    reader, writer = os.pipe()
    daemon = subprocess.Popen(
        [os.path.join(BUILD, "attnd"), "-c", "/dev/null", "-o", f"daemon.runtime_dir={folder}", "-o",
         f"model.small.path={world.model}", "--ready-fd", str(writer)],
        pass_fds=(writer,), env=world.env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(writer)
    try:
        with os.fdopen(reader) as ready:
            expect(ready.readline() == "ready\n", "the daemon is not ready")
        address = ("--address", f"shm:{folder}/attnd.sock")
        out, err = world.run("attnrun", *address, "--prompt", "Hello", "-n", "9", "--timeline")
        expect("generate" in err and "1 of 9" in err and "8 of 9" in err and " ok" in err, "the timeline", err)
        view = world.json("attnctl", *address, "--json", "view")
        generate = [one for one in view["requests"] if one["op"] == "generate"]
        expect(view["pid"] == daemon.pid and not view["stale"], "view", view)
        expect(generate and generate[0]["received"] == generate[0]["admitted"] == 1, "requests", view)
        expect(generate[0]["ended"] == {"ok": 1} and generate[0]["refused"] == 0, "requests", view)
        device = view["devices"][0]
        expect(device["counters"]["steps"] == 9 and 0 < device["utilisation"] < 1, "the device", device)
        expect(device["busy_ns"] > 0 and device["idle_ns"] > 0, "busy and idle", device)
        out, _ = world.run("attnctl", *address, "view")
        expect("busy" in out and "generate" in out and "predicted" in out, "the tables", out)
        watch = subprocess.Popen([os.path.join(BUILD, "attnctl"), *address, "--json", "--watch", "0.1", "view"],
                                 env=world.env, stdout=subprocess.PIPE, universal_newlines=True)
        first = json.loads(watch.stdout.readline())
        expect(0.09 < first["interval_s"] < 10 and not first["stale"], "the first line", first)
        daemon.kill()
        lines = [json.loads(line) for line in watch.stdout]
        expect(watch.wait(30) == NO_DAEMON, "watching a dead daemon does not end", watch.returncode)
        watch.stdout.close()
        expect(lines[-1]["stale"] and lines[-1]["devices"][0]["counters"]["steps"] == 9, "last values", lines[-1])
        expect(not any(line["stale"] for line in lines[:-1]), "it goes on", lines)
    finally:
        daemon.kill()
        daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def case_daemon(world):
    """a daemon started by hand: tools find it by address; reload and drain do what they say"""
    folder = tempfile.mkdtemp(dir=world.runtime)
    reader, writer = os.pipe()
    daemon = subprocess.Popen(
        [os.path.join(BUILD, "attnd"), "-c", "/dev/null", "-o", f"daemon.runtime_dir={folder}", "-o",
         f"model.small.path={world.model}", "--ready-fd", str(writer)],
        pass_fds=(writer,), env=world.env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    os.close(writer)
    try:
        with os.fdopen(reader) as ready:
            expect(ready.readline() == "ready\n", "the daemon is not ready")
        address = ("--address", f"shm:{folder}/attnd.sock")
        models = world.json("attnctl", *address, "--json", "models")["models"]
        expect([model["name"] for model in models] == ["small"], "models", models)
        out, _ = world.run("attnrun", *address, "--model", "small", "--prompt", "Hello", "-n", "9")
        expect(out == world.text("--prompt", "Hello", "-n", "9"), "another text than a private daemon's", out)
        _, err = world.run("attnrun", *address, "--model", "large", "--prompt", "x", status=FAILED)
        expect("large" in err, "the model is not named", err)
        bench = world.json("attnbench", "model", *address, "--json", "-p", "5", "-n", "3", "-d", "7", "-r", "1")
        check_rates(bench, ["pp5 @ d7", "tg3 @ d7"], 1)
        bench = world.json("attnbench", "step", *address, "--json", "--seconds", "0.05", "--rounds", "1")
        expect(bench["closed"]["answered"] > 0, "no step was measured", bench)
        world.run("attnctl", *address, "reload")
        status = world.json("attnctl", *address, "--json", "status")
        expect(status["pid"] == daemon.pid and not status["clients"], "status", status)
        world.run("attnctl", *address, "drain")
        expect(daemon.wait(20) == 0, f"the drained daemon ended with {daemon.returncode}", daemon.stderr.read())
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stderr.close()
        shutil.rmtree(folder, ignore_errors=True)


# ---- measurements -------------------------------------------------------------------------------------------

QUICK = ("--spawn", "--json", "--seconds", "0.06", "--rounds", "2")


def case_echo(world):
    """attnbench echo reports the keys that others read"""
    answer = world.json("attnbench", "echo", *QUICK, "--transport", "shm")
    for key in ("pingpong_p50_ns", "rtt_p50_ns", "rtt_p99_ns", "rtt_p999_ns", "ratio_p50"):
        expect(isinstance(answer.get(key), (int, float)) and answer[key] > 0, f"{key} is missing", answer)
    expect(answer["rtt_p50_ns"] <= answer["rtt_p99_ns"] <= answer["rtt_p999_ns"] <= answer["rtt_max_ns"],
           "percentiles out of order", answer)
    expect(answer["answered"] > 0 and not answer["failed"], "no answers", answer)
    expect(isinstance(answer["noisy"], bool), "noisy is no truth", answer)
    sized = world.json("attnbench", "echo", *QUICK, "--size", "64k")
    expect(sized["size_bytes"] == 65536 and not sized["failed"], "a sized echo", sized)


def check_bare(answer):
    """The bare echo beside a socket's echo, or why there is none."""
    for key in ("nonblocking_p50_ns", "rtt_p50_ns", "pingpong_p50_ns"):
        expect(answer[key] > 0, f"{key} is missing", answer)
    if answer["transport"] == "udp" and "bare_missing" in answer:
        expect(answer["bare_missing"] and "ratio_p50" not in answer, "a ratio to nothing", answer)
        return
    for key in ("bare_p50_ns", "bare_p99_ns", "ratio_p50"):
        expect(answer[key] > 0, f"{key} is missing", answer)


def case_sockets(world):
    """attnbench echo over each kind of socket, plain and sealed, beside a bare echo of the same kind"""
    for transport in SOCKETS:
        answer = world.json("attnbench", "echo", *QUICK, "--transport", transport)
        expect((answer["transport"], answer["sealed"]) == (transport, False), "what was measured", answer)
        expect(answer["answered"] > 0 and not answer["failed"], "no answers", answer)
        expect("bare_missing" in answer or answer["bare"] == ("io_uring" if transport == "udp" else "epoll"),
               "another bare echo", answer)
        check_bare(answer)
        answer = world.json("attnbench", "echo", *QUICK, "--transport", transport, "--sealed", "--size", "3000", "--sleep")
        expect((answer["transport"], answer["sealed"]) == (transport, True), "what was measured", answer)
        expect(answer["answered"] > 0 and not answer["failed"], "no answers", answer)
        expect(answer["bare"] == "epoll, sleeping", "another bare echo", answer)
        check_bare(answer)
    out, _ = world.run("attnbench", "echo", "--spawn", "--transport", "tcp", "--sealed", "--seconds", "0.02", "--rounds", "1")
    expect("bare echo, epoll" in out and "TCP, sealed" in out and "times the bare echo" in out, "the table", out)
    out, _ = world.run("attnbench", "echo", "--spawn", "--transport", "unix", "--seconds", "0.02", "--rounds", "1", "--size", "100k")
    expect("no bare echo" in out, "a bare echo of too much is not left out", out)
    for transport in SOCKETS:
        out, _ = world.run("attnrun", "--spawn", "--transport", transport, "--sealed", "--model", world.model, "--prompt",
                           "Hello", "-n", "9", "--temp", "0")
        expect(out == world.text("--prompt", "Hello", "-n", "9"), f"another text over {transport}", out)


def case_crowd(world):
    """attnbench load: 200 connections, and all that was asked is answered"""
    for transport, *more in (("tcp", "--poisson"), ("udp", "--random"), ("unix", "--sealed", "--idle", "30")):
        answer = world.json("attnbench", "load", "--spawn", "--json", "--seconds", "0.5", "--rounds", "1", "--transport",
                            transport, "--connections", "200", "--rate", "2000", "--size", "100", *more)
        expect((answer["connections"], answer["closed"], answer["transport"]) == (200, False, transport), "what it was", answer)
        expect(answer["sent"] == answer["scheduled"] == answer["answered"] > 500 and not answer["failed"],
               "not every request was answered", answer)
        expect(0 < answer["latency_p50_ns"] <= answer["latency_p99_ns"] <= answer["latency_p9999_ns"], "latency", answer)
        # Rounds that are measured again are the daemon's, too.
        expect(answer["network"]["requests"] >= answer["answered"], "requests that the daemon has not counted", answer)
        expect(answer["network"]["port"]["system_calls"] > 0 and answer["system_calls_per_request"] > 0, "system calls", answer)
        expect(answer["memory_bytes"] > 1 << 20 and answer["memory_before_bytes"] > 1 << 20, "the daemon's memory", answer)
    for transport in SOCKETS:
        answer = world.json("attnbench", "load", "--spawn", "--json", "--seconds", "0.6", "--rounds", "2", "--transport",
                            transport, "--connections", "50", "--closed", "--size", "1000", "--baseline", "epoll")
        expect(answer["answered"] > 50 and not answer["failed"], "not every request was answered", answer)
        expect(answer["baseline_rps"] > 0 and answer["ratio_rps"] > 0 and answer["answered_per_s"] > 0, "the baseline", answer)
        expect(0 < answer["baseline_p50_ns"] <= answer["baseline_p99_ns"], "the baseline's latency", answer)
    out, _ = world.run("attnbench", "load", "--spawn", "--transport", "tcp", "--sealed", "--connections", "20", "--closed",
                       "--baseline", "epoll", "--seconds", "0.5", "--rounds", "1")
    expect("bare epoll server" in out and "system calls a request" in out and "TCP, sealed" in out, "the table", out)


def case_siege(world):
    """attnbench siege: each attack is counted under its name, and all good requests are answered meanwhile"""
    counted = {"tcp": {"hello-flood": ("abandoned", "pushed_out"), "wrong-key": ("refused_key",), "garbage": ("malformed", "oversized"),
                       "slow-reader": ("kept",), "replay": ("abandoned", "pushed_out")},
               "udp": {"hello-flood": ("welcomed", "cookies"), "wrong-key": ("refused_key", "cookies"), "garbage": ("malformed",),
                       "slow-reader": ("kept",), "replay": ("replays", "hellos_again")}}
    for transport in ("tcp", "udp"):
        answer = world.json("attnbench", "siege", "--spawn", "--json", "--seconds", "0.6", "--rounds", "1", "--transport", transport,
                            "--connections", "10", "--rate", "500")
        expect((answer["transport"], answer["sealed"], answer["connections"]) == (transport, True, 10), "what it was", answer)
        expect([one["attack"] for one in answer["attacks"]] == list(ATTACKS), "which attacks", answer)
        for one in answer["attacks"]:
            for half in ("quiet", "attacked"):
                expect(one[half]["answered"] == one[half]["scheduled"] > 100 and not one[half]["failed"],
                       f"{one['attack']}, {half}: not every request was answered", one)
            expect(one["attack_sent"] > 50 and one["ratio_p50"] > 0 and one["ratio_p999"] > 0, "an attack without attacks", one)
            names = counted[transport][one["attack"]]
            expect(sum(one["counted"].get(name, 0) for name in names) > 40, f"{one['attack']} is not counted as {names}", one)
    out, _ = world.run("attnbench", "siege", "--spawn", "--transport", "udp", "--attack", "garbage", "--attack-rate", "500",
                       "--seconds", "0.3", "--rounds", "1")
    expect("counted as malformed" in out and "share the cores" in out and "UDP, sealed" in out, "the table", out)


def case_too_many(world):
    """connections that there are no descriptors for, or no places, are an error that says so"""
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))

    tool = world.start("attnbench", "load", "--spawn", "--transport", "tcp", "--connections", "1000", "--closed",
                       preexec_fn=limit)
    _, err = tool.communicate(timeout=BOUND_S)
    expect(tool.returncode == FAILED and b"descriptors" in err and b"300" in err, "too many connections", err)
    _, err = world.run("attnbench", "load", "--spawn", "--transport", "tcp", "--connections", "20", "--closed",
                       "--daemon-option", "net.connections=10", status=NO_DAEMON)
    expect("of 20" in err, "the connection is not named", err)


def case_open_loop(world):
    """an open loop keeps its schedule's count, says whether it is void, and writes its histogram"""
    raw = world.path("raw.txt")
    answer = world.json("attnbench", "echo", *QUICK, "--rate", "2000", "--poisson", "--out", raw)
    expect(isinstance(answer["void"], bool) and answer["missed"] <= answer["scheduled"], "void", answer)
    expect(answer["answered"] == answer["scheduled"] > 20, "not every request was answered", answer)
    with open(raw) as file:
        counts = [int(line.split()[1]) for line in file if not line.startswith("#")]
    expect(sum(counts) == answer["answered"], "the raw histogram has another count", sum(counts), answer)
    out, _ = world.run("attnbench", "echo", "--spawn", "--seconds", "0.02", "--rounds", "1")
    expect("ping-pong" in out and "way in" in out, "the table", out)


def check_replay(answer):
    """Every request is in one of the sums, of each urgency and of all."""
    classes = [answer["classes"][name] for name in ("tight", "normal", "none")]
    for group in (answer, *classes):
        expect(group["offered"] == group["admitted"] + group["refused"], "a request is lost", answer)
        expect(group["good"] + group["missed_admitted"] <= group["admitted"], "more good ones than were admitted", answer)
        expect(group["missed_seen"] >= group["missed_admitted"], "seen before it was there", answer)
    for name in ("offered", "admitted", "refused", "good", "missed_admitted"):
        expect(sum(group[name] for group in classes) == answer[name], f"{name}: parts and whole differ", answer)
    expect(answer["refused"] == sum(answer["refused_by"].values()), "a refusal without a reason", answer)
    expect(answer["failed"] == answer["unanswered"] == answer["classes"]["none"]["missed_admitted"] == 0, "trouble", answer)
    expect(answer["capacity_rps"] > 0 and answer["ideal"]["prompt_token_ms"] >= 0, "how fast it is", answer)
    expect(answer["offered"] == answer["scheduled"] and isinstance(answer["void"], bool), "the schedule", answer)
    expect(answer["prediction"]["error_p99"] >= answer["prediction"]["error_median"], "what was predicted", answer)
    expect(answer["goodput_rps"] <= answer["offered_rps"] and answer["ttft_p99_ms"] >= answer["ttft_p50_ms"], "rates", answer)
    if answer["admitted"]:
        expect(answer["prediction"]["steps"] > 0 and answer["ttft_p50_ms"] > 0, "admitted, and no step", answer)


def case_replay(world):
    """replay: each request of a trace is admitted or refused, with and without deadlines, and prefixes are found"""
    azure = world.path("trace.csv")
    with open(azure, "w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for i in range(200):
            file.write(f"2023-11-16 18:{i // 60:02}:{i % 60:02}.5000000,{100 + i * 37 % 1500},{5 + i * 11 % 90}\n")
    replay = ("attnbench", "replay", "--spawn", "--json", "--model", world.model, "--sample", "32", "--sessions", "16")
    for more in ((), ("--no-deadlines",), ("--transport", "tcp", "--sealed")):
        answer = world.json(*replay, "--trace", azure, "--seconds", "1", "--load", "1.5", *more)
        check_replay(answer)
        expect(answer["trace_kind"] == "azure" and answer["deadlines"] == ("--no-deadlines" not in more), "the frame", answer)
        expect("--no-deadlines" not in more or answer["refused"] == 0, "refused without a deadline", answer)
    # So much at once that something must be refused or late; and each request by itself.
    each = world.path("each.csv")
    answer = world.json(*replay, "--out", each, "--trace", azure, "--capacity", "100000", "--scale", "16", "--slack", "2,5", "--mix", "50,40,10")
    check_replay(answer)
    expect(answer["offered"] == 200 and answer["capacity_rps"] == 100000 and answer["good"] < 200, "far too much", answer)
    with open(each) as file:
        lines = [line.rstrip("\n").split(",") for line in file]
    at = {name: column for column, name in enumerate(lines.pop(0))}
    expect(len(lines) == 200 and all(len(line) == len(at) for line in lines), "not a line for each request", len(lines))
    expect(sum(line[at["tokens"]] != "0" for line in lines) == sum(line[at["first_us"]] != "" for line in lines), "tokens")
    expect(sum(line[at["status"]] == "refused-deadline" for line in lines) == answer["refused_by"].get("refused-deadline", 0),
           "refusals in lines and in all differ", answer)
    expect(all((line[at["deadline_us"]] == "") == (line[at["urgency"]] == "none") for line in lines), "deadlines")
    # Conversations that go on: the same blocks again and again.
    mooncake = world.path("trace.jsonl")
    with open(mooncake, "w") as file:
        for i in range(60):
            blocks = [*range(6), 100 + i]
            file.write(json.dumps({"timestamp": i * 50, "input_length": 512 * 7, "output_length": 64, "hash_ids": blocks}) + "\n")
    answer = world.json(*replay, "--trace", mooncake, "--scale", "16", "--seconds", "2", "--load", "0.5")
    check_replay(answer)
    expect(answer["prefix_hit_rate"] > 0.3, "equal prompts are not found again", answer)
    out, _ = world.run("attnbench", "replay", "--spawn", "--model", world.model, "--trace", "bursts", "--requests", "100",
                       "--sample", "16")
    expect("goodput" in out and "tight" in out and "predicted" in out, "the table", out)


def case_replay_mistakes(world):
    """replay: a wrong file is an error that names file, line and value; so is a trace that has no room"""
    bad = world.path("bad.csv")
    with open(bad, "w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,4x\n")
    replay = ("attnbench", "replay", "--spawn", "--model", world.model)
    _, err = world.run(*replay, "--trace", bad, status=FAILED)
    expect("bad.csv:2: two numbers of tokens must follow the time" in err and "4x" in err, "a bad line", err)
    _, err = world.run(*replay, "--trace", world.path("missing.csv"), status=FAILED)
    expect("missing.csv cannot be opened" in err, "a file that is not there", err)
    _, err = world.run(*replay, "--trace", "poisson", "--scale", "1", status=FAILED)
    expect("--scale" in err and "the longest request has" in err, "what has no room", err)


def case_loads(world):
    """step, generate and attend measure"""
    model = ("--model", world.model)
    step = world.json("attnbench", "step", *QUICK, *model, "--sessions", "2", "--output", "top")
    expect(step["closed"]["answered"] > 0 and not step["closed"]["failed"], "step", step)
    expect(step["open"]["rate"] > 0 and "run_p50_ns" in step["open"]["where"], "step, open loop", step)
    prefill = world.json("attnbench", "step", *QUICK, *model, "--tokens", "16", "--context", "0", "--in-flight", "3")
    expect(prefill["closed"]["answered"] > 0 and not prefill["closed"]["failed"], "step of 16 tokens", prefill)
    generate = world.json("attnbench", "generate", *QUICK, *model, "--clients", "3", "-n", "4")
    expect(generate["closed"]["tokens"] > 0 and not generate["closed"]["failed"], "generate", generate)
    generate = world.json("attnbench", "generate", *QUICK, *model, "--clients", "3", "-n", "4", "--transport", "udp")
    expect(generate["closed"]["tokens"] > 0 and generate["transport"] == "udp", "generate over UDP", generate)
    for more in ((), ("--append", "1", "--kv", "int8")):
        attend = world.json("attnbench", "attend", *QUICK, "--context", "256", *more)
        expect(attend["closed"]["answered"] > 0 and not attend["closed"]["failed"], "attend", attend)
    _, err = world.run("attnbench", "step", "--spawn", *model, "--context", "100000", status=FAILED)
    expect("context" in err, "a context that is too long is not called so", err)


def check_rates(object, tests, repeats):
    """The results are of these tests, and each sample is its tokens over its time."""
    expect([result["test"] for result in object["results"]] == tests, "other tests", object)
    for result in object["results"]:
        tokens, rates = result["n_prompt"] + result["n_gen"], result["samples_tokens_per_s"]
        expect(len(rates) == len(result["samples_ns"]) == repeats, "not a sample per repeat", result)
        for rate, ns in zip(rates, result["samples_ns"]):
            expect(abs(rate - tokens * 1e9 / ns) < 0.01, "a rate that is not its time's", result)
        expect(result["min"] <= result["tokens_per_s"] <= result["max"] and result["min"] > 0, "the median", result)
        expect(sorted(rates)[len(rates) // 2] == result["tokens_per_s"], "the median of an odd number", result)


def case_model(world):
    """model measures prefill and decode at each depth, in a table and as JSON"""
    random = world.path("random.gguf")
    world.run("attnquant", "make-random", "--shape", "stories-260k", "--type", "Q8_0", "-o", random)
    got = world.json("attnbench", "model", "--model", random, "-p", "70", "-n", "9", "-d", "300,0", "-r", "3",
                     "--kv", "int8", "-t", "1", "-b", "32", "--json")
    check_rates(got, ["pp70", "tg9", "pp70 @ d300", "tg9 @ d300"], 3)
    expect((got["command"], got["kv_k"], got["kv_v"], got["threads"], got["parameters"]) ==
           ("model", "int8", "int8", 1, 260032), "what was measured", got)
    got = world.json("attnbench", "model", "--model", world.model, "-p", "0", "-n", "40", "-r", "1", "--json",
                     "--kv", "f32,int8")
    check_rates(got, ["tg40"], 1)
    expect((got["kv_k"], got["kv_v"], got["decode"]) == ("f32", "int8", "stream"), "formats", got)
    got = world.json("attnbench", "model", "--model", world.model, "-n", "5", "-p", "3", "-r", "1", "--json",
                     "--decode", "step", "--daemon-option", "kv.default=f32")
    check_rates(got, ["pp3", "tg5"], 1)
    expect((got["kv_k"], got["decode"]) == ("f32", "step"), "decode by steps", got)
    got = world.json("attnbench", "model", "--model", world.model, "-n", "5", "-p", "3", "-r", "1", "--json",
                     "--transport", "unix", "--sealed")
    check_rates(got, ["pp3", "tg5"], 1)
    expect((got["transport"], got["sealed"]) == ("unix", True), "over a socket", got)
    out, err = world.run("attnbench", "model", "--model", random, "-p", "16", "-n", "4", "-r", "2", "-d", "64")
    expect(not err and "pp16 @ d64" in out and "tg4 @ d64" in out and "±" in out, "the table", out, err)
    _, err = world.run("attnbench", "model", "--model", random, "-d", "2000", status=FAILED)
    expect("at most 2048" in err, "a context that is too long is not called so", err)
    _, err = world.run("attnbench", "model", "--model", world.path("missing.gguf"), status=FAILED)
    expect("missing.gguf" in err, "a missing model is not named", err)
    where = f"shm:{world.path('none')}/attnd.sock"
    world.run("attnbench", "model", "--address", where, status=NO_DAEMON)


def case_model_pool(world):
    """model starts its daemon with a larger pool where the daemon's own choice cannot hold the test"""
    wide = world.path("wide.gguf")
    world.run("attnquant", "make-random", "--layers", "32", "--width", "64", "--heads", "16", "--kv-heads", "16",
              "--head-dim", "256", "--ff", "64", "--vocab", "300", "--type", "Q8_0", "-o", wide)
    # A megabyte of f32 cache for a token: what the test may need is more than the gigabyte of kv.pool = auto.
    out, err = world.run("attnbench", "model", "--model", wide, "-p", "8", "-n", "2", "-r", "1", "--kv", "f32",
                         "--json", "--verbose")
    check_rates(json.loads(out), ["pp8", "tg2"], 1)
    expect(err.count("loaded") == 2, "it did not start again with a larger pool", err)


# ---- ends -----------------------------------------------------------------------------------------------------


def children_of(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    if int(file.read().rsplit(")", 1)[1].split()[1]) == pid:
                        found.append(int(entry))
            except OSError:
                pass
    return found


def case_killed(world):
    """a tool that is killed leaves neither daemon nor folder"""
    for ending in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        tool = world.start("attnrun", "--spawn", "--model", world.model, stdin=subprocess.PIPE)
        try:
            keepers = []
            until = time.monotonic() + 60
            while time.monotonic() < until and not any("attnd.sock" in os.listdir(os.path.join(world.runtime, name))
                                                       for name in os.listdir(world.runtime)):
                time.sleep(0.02)
            keepers = children_of(tool.pid)
            daemons = [child for keeper in keepers for child in children_of(keeper)]
            expect(len(daemons) == 1, f"{len(daemons)} daemons of {len(keepers)} keepers")
            tool.send_signal(ending)
            tool.communicate(timeout=30)
            expect(tool.returncode == -ending, f"ended with {tool.returncode} by signal {ending}")
            expect(not world.left_behind(), f"a runtime folder outlives signal {ending}", os.listdir(world.runtime))
            expect(not os.path.exists(f"/proc/{daemons[0]}"), f"the daemon outlives signal {ending}")
        finally:
            tool.kill()
            tool.communicate()


def case_cancel(world):
    """Ctrl-C cancels the request; what was said stays said"""
    options = ("--spawn", "--model", world.model, "--prompt", "Hello", "-n", "2000", "--temp", "100")
    for seed in range(8):
        tool = world.start("attnrun", *options, "--seed", str(seed))
        begun = tool.stdout.read(1)
        tool.send_signal(signal.SIGINT)
        rest, err = tool.communicate(timeout=BOUND_S)
        if tool.returncode == INTERRUPTED:
            expect(begun + rest, "no text before the interruption", err)
            expect(not err, "an interruption is no error", err)
            return
        # The model may have been faster; then the text is whole.
        expect(tool.returncode == 0, f"ended with {tool.returncode}", err)
    raise Broken("no request was cancelled in eight tries")


def socket_of(daemon):
    """the attach socket of a daemon, from its command line"""
    with open(f"/proc/{daemon}/cmdline", "rb") as file:
        for word in file.read().decode().split("\0"):
            if word.startswith("daemon.runtime_dir="):
                return word.partition("=")[2] + "/attnd.sock"
    return ""


def case_daemon_dies(world):
    """the daemon's death is an error within a bound, and says so"""
    tool = world.start("attnbench", "echo", "--spawn", "--seconds", "60")
    try:
        until = time.monotonic() + 60
        daemons = []
        while time.monotonic() < until and not daemons:
            daemons = [child for keeper in children_of(tool.pid) for child in children_of(keeper)]
            time.sleep(0.02)
        # Not before it serves, which takes a while under a sanitizer: its socket is there then.
        while time.monotonic() < until and not os.path.exists(socket_of(daemons[0])):
            time.sleep(0.02)
        time.sleep(1.5)
        os.kill(daemons[0], signal.SIGKILL)
        _, err = tool.communicate(timeout=30)
        expect(tool.returncode in (FAILED, NO_DAEMON), f"ended with {tool.returncode}", err)
        expect(b"gone" in err or b"signal 9" in err, "the message does not say so", err)
    finally:
        tool.kill()
        tool.communicate()


def main():
    cases = [(name[5:], function) for name, function in globals().items() if name.startswith("case_")]
    if sys.argv[1:]:
        cases = [(name, function) for name, function in cases if name in sys.argv[1:]]
    if not all(os.path.exists(os.path.join(BUILD, tool)) for tool in TOOLS + ("attnd",)):
        print(f"1..0 # SKIP the programs are not in {BUILD}")
        return 77
    print(f"1..{len(cases)}")
    passed = 0
    for number, (name, function) in enumerate(cases, 1):
        with tempfile.TemporaryDirectory(prefix="attnd-tools-") as folder:
            world = World(folder)
            wrong = None
            try:
                world.run("attnquant", "make-tiny", "-o", world.model)
                function(world)
                left = world.left_behind()
                expect(not left, f"left behind: {left}")
            except (Broken, OSError, KeyError, ValueError, subprocess.TimeoutExpired) as reason:
                wrong = f"{type(reason).__name__}: {reason}"
            passed += not wrong
            print(f"{'not ' if wrong else ''}ok {number} - {name}: {function.__doc__}", flush=True)
            for line in (wrong or "").splitlines():
                print(f"# {line}")
    print(f"# {passed} of {len(cases)} passed")
    return 0 if passed == len(cases) else 1


sys.exit(main())
