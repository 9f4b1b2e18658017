#!/usr/bin/env python3
"""attnsim as a stranger runs it: what it prints, that the same seed prints the same, what it refuses, and that policies
differ as they must. Time limit: 300 s

    ATTND_BUILD=build tests/system/test_attnsim.py

Prints TAP. The real traces are below ATTND_DATA; without them their case is skipped.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.dom.minidom

BUILD = os.path.realpath(os.environ.get("ATTND_BUILD") or os.environ.get("O") or "build")
TOOL = os.path.join(BUILD, "attnsim")
TRACES = os.path.join(os.path.realpath(os.environ.get("ATTND_DATA") or "../shared"), "data/traces")
FAILED, USAGE = 1, 2
PROMISED = ("admitted", "refused", "missed_admitted", "goodput_rps", "ttft_p99_ms", "fair_drift", "prefix_hit_rate",
            "tokens_per_s", "utilisation", "tpot_p50_ms", "tpot_p99_ms", "capacity_rps")


class Skip(Exception):
    pass


def run(*arguments, status=0, says=""):
    result = subprocess.run([TOOL, *arguments], capture_output=True, text=True, timeout=250)
    assert result.returncode == status, f"{arguments}: exit {result.returncode}, not {status}\n{result.stderr}"
    assert says in result.stderr, f"{arguments}: '{says}' is not in\n{result.stderr}"
    if status == 0:
        assert not result.stderr, f"{arguments}: something on standard error\n{result.stderr}"
    return result.stdout


def simulate(*arguments):
    return json.loads(run("--json", *arguments))


def write(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        file.write(text)
    return path


def azure(folder, count=400):
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for i in range(count):
        lines.append(f"2023-11-16 18:{i // 60:02}:{i % 60:02}.5000000,{100 + i * 37 % 1500},{5 + i * 11 % 90}")
    return write(folder, "small.csv", "\n".join(lines) + "\n")


def case_help(folder):
    """it explains itself and gives its version"""
    said = run("--help")
    for word in ("Usage: attnsim", "--trace", "--policy", "--load", "--sweep", "--svg", "--residuals", "--json"):
        assert word in said, f"{word} is not in the help"
    assert run("--version").split()[0] == "attnsim"


def case_usage(folder):
    """a wrong command line is status 2 with a sentence"""
    for arguments in ((), ("--trace", "poisson", "--policy", "lifo"), ("--trace", "poisson", "--load", "-1"),
                      ("--trace", "poisson", "--mix", "30,50"), ("--trace", "poisson", "--mix", "30,50,30"),
                      ("--trace", "poisson", "--slack", "0.5,2"), ("--trace", "poisson", "--device", "abacus"),
                      ("--trace", "poisson", "--model", "9t"), ("--trace", "poisson", "--tenants", "0"), ("more",),
                      ("--trace", "poisson", "--kv", "int3"), ("--trace", "poisson", "--nonsense")):
        said = subprocess.run([TOOL, *arguments], capture_output=True, text=True, timeout=60)
        assert said.returncode == USAGE and said.stderr.strip(), f"{arguments}: {said.returncode} {said.stderr}"


def case_bad_files(folder):
    """a file that is not what it should be is named, with line and value"""
    run("--trace", os.path.join(folder, "none.csv"), status=FAILED, says="none.csv cannot be opened")
    run("--trace", folder, status=FAILED, says="is no file")
    bad = write(folder, "bad.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,4x\n")
    run("--trace", bad, status=FAILED, says="bad.csv:2: two numbers of tokens must follow the time: "
        "'2023-11-16 18:15:46.68,374,4x'")
    bad = write(folder, "bad.jsonl", '{"timestamp": 0, "input_length": 9, "output_length": 9}\n{"timestamp": "x"}\n')
    run("--trace", bad, status=FAILED, says="bad.jsonl:2:")
    bad = write(folder, "residuals", "1.0\n-3\n")
    run("--trace", "poisson", "--residuals", bad, status=FAILED, says="residuals:2: '-3'")
    run("--trace", "poisson", "--requests", "10", "--model", "8b", "--device", "cpu2", status=FAILED, says="does not fit")


def case_json(folder):
    """the fields that were promised, and every request is in one of them"""
    said = simulate("--trace", azure(folder), "--load", "1.2", "--policy", "ours")
    missing = [name for name in PROMISED if not isinstance(said.get(name), (int, float))]
    assert not missing, f"{missing} are missing in {said}"
    assert said["requests"] == 400 == said["admitted"] + said["refused"], said
    assert said["prefix_hit_rate"] == 0 and said["prefix"] == "ours"  # no two prompts of it are alike
    assert abs(said["offered_rps"] / said["capacity_rps"] / 1.2 - 1) < 0.01, said
    classes = said["classes"]
    for field in ("requests", "admitted", "refused", "missed_admitted", "good"):
        assert sum(classes[name][field] for name in ("tight", "normal", "none")) == said[field], field
    assert classes["none"]["missed_admitted"] == 0 and classes["tight"]["requests"] > 50


def case_same_seed(folder):
    """the same seed prints the same bytes, another seed others"""
    for device in (("--device", "gpu"), ("--device", "cpu2"), ("--device", "gpu", "--devices", "3")):
        arguments = ("--json", "--trace", azure(folder), "--load", "1.5", *device)
        first = run(*arguments)
        assert first == run(*arguments), f"{device}: the second run differs"
        assert first != run(*arguments, "--seed", "2"), f"{device}: the seed changes nothing"


def case_policies(folder):
    """far over capacity only ours refuses, and what it admits is late less often; under it nobody is late"""
    trace = ("--trace", "poisson", "--requests", "1500", "--residuals", "none", "--seed", "3")
    over = {policy: simulate(*trace, "--load", "2", "--policy", policy) for policy in ("ours", "fifo", "edf", "budget")}
    assert over["ours"]["refused"] > 100, over["ours"]["refused"]
    for policy in ("fifo", "edf", "budget"):
        assert over[policy]["refused"] == 0 and over[policy]["admitted"] == 1500
        assert over["ours"]["goodput_rps"] > 1.5 * over[policy]["goodput_rps"], f"not better than {policy}"
    under = simulate(*trace, "--load", "0.3", "--policy", "edf")
    assert under["missed_admitted"] <= 15, under


def case_devices(folder):
    """eight devices carry about eight times as much"""
    trace = ("--trace", "poisson", "--requests", "3000", "--residuals", "none")
    one, eight = simulate(*trace, "--device", "gpu"), simulate(*trace, "--device", "gpu8")
    assert 5 < eight["capacity_rps"] / one["capacity_rps"] < 9, (one["capacity_rps"], eight["capacity_rps"])
    assert eight["devices"] == 8


def case_residuals(folder):
    """a device that is always twice as slow as measured takes twice as long for a token"""
    slow = write(folder, "slow", "# all the same\n2.0\n2.0\n")
    trace = ("--trace", azure(folder, 100), "--load", "0.1", "--capacity", "10")
    plain, twice = simulate(*trace, "--residuals", "none"), simulate(*trace, "--residuals", slow)
    assert 1.9 < twice["tpot_p50_ms"] / plain["tpot_p50_ms"] < 2.3, (plain["tpot_p50_ms"], twice["tpot_p50_ms"])


def case_give_up(folder):
    """who gives up is counted, and is good for nobody"""
    trace = ("--trace", "poisson", "--requests", "800", "--load", "2", "--policy", "fifo")
    patient, impatient = simulate(*trace), simulate(*trace, "--give-up")
    assert impatient["gave_up"] > 50 and patient["gave_up"] == 0
    assert impatient["missed_admitted"] >= impatient["gave_up"]


def case_sweep(folder):
    """a sweep has a point for each load and policy, a table, and a picture that is XML"""
    picture = os.path.join(folder, "curves.svg")
    said = simulate("--trace", azure(folder, 150), "--svg", picture, "--jobs", "2")
    assert len(said["points"]) == 20
    assert {(p["load"], p["policy"]) for p in said["points"]} == {
        (load, policy) for load in (0.5, 0.8, 0.95, 1.2, 2) for policy in ("ours", "fifo", "edf", "budget")}
    root = xml.dom.minidom.parse(picture).documentElement
    words = " ".join(node.firstChild.data for node in root.getElementsByTagName("text"))
    for word in ("small.csv", "Goodput", "Missed deadlines", "p99", "ours", "fifo", "edf", "budget", "0.95"):
        assert word in words, f"{word} is not in the picture"
    assert len([path for path in root.getElementsByTagName("path") if path.getAttribute("class") == "curve"]) == 16
    table = run("--trace", azure(folder, 150), "--sweep")
    assert table.count("budget") == 5 and "goodput" in table
    run("--trace", azure(folder, 20), "--svg", os.path.join(folder, "no/where.svg"), status=FAILED, says="cannot be written")


def case_real_traces(folder):
    """the real traces are read whole, and their first requests replayed"""
    for name, count in (("AzureLLMInferenceTrace_conv.csv", 19366), ("AzureLLMInferenceTrace_code.csv", 8819),
                        ("mooncake_conversation_trace.jsonl", 12031)):
        path = os.path.join(TRACES, name)
        if not os.path.exists(path):
            raise Skip(f"{name} is not in ATTND_DATA")
        requests = 1500 if name.endswith("jsonl") else 600
        said = simulate("--trace", path, "--requests", str(requests), "--load", "0.8")
        assert said["requests"] == requests and said["admitted"] > requests / 2, said
        with open(path) as file:
            lines = sum(1 for line in file if line.strip())
        assert lines - (name.endswith("csv")) == count, f"{name}: {lines} lines"
        if name.endswith("jsonl"):
            assert 0.01 < said["prefix_alone_lru"] < said["prefix_alone_ours"], said
            assert said["prefix_alone_ours"] < said["prefix_alone_best"] < said["prefix_alone_endless"] < 1, said
            assert 0.01 < said["prefix_hit_rate"] < said["prefix_alone_endless"], said


def main():
    cases = [value for name, value in globals().items() if name.startswith("case_")]
    failed = 0
    print(f"1..{len(cases)}")
    for number, case in enumerate(cases, 1):
        folder = tempfile.mkdtemp(prefix="attnd-sim-")
        try:
            case(folder)
            print(f"ok {number} - {case.__doc__}")
        except Skip as reason:
            print(f"ok {number} - {case.__doc__} # SKIP {reason}")
        except Exception as problem:
            failed += 1
            print(f"not ok {number} - {case.__doc__}")
            print("\n".join("# " + line for line in f"{type(problem).__name__}: {problem}".splitlines()))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        sys.stdout.flush()
    return 1 if failed else 0


sys.exit(main())
