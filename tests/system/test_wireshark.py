#!/usr/bin/env python3
"""What tools/attnd.lua makes of packets: every operation by TCP and by UDP, captured on the way, reads as it was sent and answered, and
nothing is malformed. In a network of its own, so that nobody else's packets are there. Time limit: 300 s

    ATTND_BUILD=build tests/system/test_wireshark.py [NAME...]

Prints TAP. Needs root, tshark and dumpcap; and the module cryptography for the case of what is sealed.
"""
import ctypes
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree

from net_world import ROOT, expect, expect_ok, run_cases
import attnd_client as net

SCRIPT = f"{ROOT}/tools/attnd.lua"
USUAL = "tcp:127.0.0.1:7747"
CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP = 0x40000000, 0x8914, 1
ATTENTION, HEAD_DIM, UNSET = 2, 32, 0xFFFFFFFF
RECORD_FIELDS = ("op flags class version lap reserved id session deadline position argument in_offset in_bytes out_offset out_capacity "
                 "args").split()
COMPLETION_FIELDS = "id status flags lap sequence result_bytes position received admitted started done value".split()


def enum_of(name):
    """Names and values of an enum of record.h."""
    with open(f"{ROOT}/client-lib/include/attnd/record.h") as file:
        body = re.search(rf"enum {name} {{(.*?)}};", file.read(), re.DOTALL)[1]
    return {int(value): word for word, value in re.findall(r"ATTND_(?:OP_)?(\w+) = (\d+)", body)}


OPS, STATUSES = enum_of("attnd_op"), enum_of("attnd_status")


# ---- capturing ---------------------------------------------------------------------------------------------


def own_network():
    """Moves into a network of its own, with a loopback; why not, or nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.getuid() != 0:
        return "not root, so nothing can be captured"
    if libc.unshare(CLONE_NEWNET):
        return f"no network of its own: {os.strerror(ctypes.get_errno())}"
    with socket.socket(type=socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
    return None


class Capture:
    """What passes the loopback between `with` and its end, as tshark reads it."""

    def __init__(self, world, name):
        self.path, self.env = f"{world.folder}/{name}.pcapng", {**os.environ, "HOME": world.folder}

    def __enter__(self):
        self.dumpcap = subprocess.Popen(["dumpcap", "-i", "lo", "-w", self.path], env=self.env, stderr=subprocess.PIPE, text=True)
        for line in self.dumpcap.stderr:
            if line.startswith("File:"):
                return self
        raise OSError("dumpcap does not begin")

    def __exit__(self, *problem):
        time.sleep(1)  # until it has taken what has come
        self.dumpcap.send_signal(signal.SIGINT)
        said = self.dumpcap.communicate(timeout=30)[1]
        expect(problem[0] or re.search(r"dropped on interface 'Loopback: lo': (\d+)/0", said), "packets were dropped", said)

    def tshark(self, *options):
        done = subprocess.run(["tshark", "-X", f"lua_script:{SCRIPT}", "-r", self.path, *options], env=self.env, check=True, timeout=100,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        expect("Lua" not in done.stderr, "tshark complains", done.stderr)
        return done.stdout

    def packets(self):
        """All that is attnd's, as trees of fields; nothing of it is malformed."""
        tree = xml.etree.ElementTree.fromstring(self.tshark("-T", "pdml", "-Y", "attnd"))
        for field in tree.iter("field"):
            name, shown = field.get("name"), field.get("showname") or field.get("show") or ""
            expect(name not in ("attnd.wrong", "_ws.malformed") and "Lua Error" not in shown, "malformed", shown)
        expect(not any(proto.get("name") == "_ws.malformed" for proto in tree.iter("proto")), "malformed")
        return tree


def value_of(field):
    shown = field.get("show")
    if field.get("name").endswith((".payload", ".token", ".sealed")):
        return bytes.fromhex(field.get("value"))
    try:
        return int(shown, 0)
    except ValueError:
        return float(shown) if re.fullmatch(r"-?[\d.e+-]+", shown) else shown


def fields_of(element, prefix):
    """The fields of one name's family below an element, without the name's beginning."""
    found = {}
    for field in element.iter("field"):
        if field.get("name", "").startswith(prefix):
            found.setdefault(field.get("name")[len(prefix):], value_of(field))
    return found


def chunks_of(tree):
    """Elements that are chunks: what has a chunk's kind directly below it."""
    return [element for element in tree.iter() if any(child.get("name") == "attnd.chunk.kind" for child in element)]


# ---- what is said ------------------------------------------------------------------------------------------


def attention_params(q_rows, kv_rows, flags=0):
    return struct.pack("<IHBBIIIIff32x", 64, 0, 0, flags, q_rows, kv_rows, UNSET, UNSET, 0, -1)


def say_everything(client):
    """Every operation, some with an error. Returns the requests, completed."""
    said = [client.call(net.NOP), client.call(net.NOP, os.urandom(100000), 100000), client.call(net.NOP, b"x", 1, klass=2)]
    said += [client.call(net.DESCRIBE, capacity=256, argument=what) for what in (0, 1)]
    said += [client.open_model(max_tokens=500, seed=7, temperature=0.5)]
    session = expect_ok(said[-1]).completion.value
    said += [client.call(net.TOKENIZE, b"The day", 256, flags=4), client.call(net.DETOKENIZE, struct.pack("<II", 5, 6), 256)]
    said += [client.wait(client.generate(session, [1, 5], 8))]
    said += [client.wait(client.step(session, [5, 6], deadline_ns=1 << 62)), client.wait(client.step(session, [5], position=1, flags=1)),
             client.wait(client.step(session, [1 << 30])), client.call(net.DESCRIBE, capacity=64, argument=2, session=session)]
    said += [client.call(net.FORK, session=session, argument=2), client.call(net.TRUNCATE, session=session, argument=1)]
    said += [client.call(net.CANCEL, session=session, args=said[0].number), client.call(net.CLOSE_SESSION, session=session)]
    params = struct.pack("<IIIIBB6xIIIIIff36x", 88, ATTENTION, 0, 128, 0, 0, 1, 2, 1, HEAD_DIM, 0, 0, 0)
    said += [client.call(net.OPEN, params)]
    session = expect_ok(said[-1]).completion.value
    row = HEAD_DIM * 4
    said += [client.call(net.APPEND, attention_params(0, 1) + bytes(2 * row), session=session)]
    said += [client.call(net.ATTEND, attention_params(1, 0, 1) + bytes(2 * row), 2 * row, session=session)]
    said += [client.call(99), client.call(net.DESCRIBE, capacity=8)]
    said_ops = {net.RECORD.unpack(request.record)[0] for request in said}
    expect(set(OPS) <= said_ops, "operations are not said", set(OPS) - said_ops)
    for request in said[:2] + said[5:10]:
        expect_ok(request)
    return said


def compare_requests(tree, said):
    seen = {}
    for chunk in chunks_of(tree):
        fields = fields_of(chunk, "attnd.request.")
        if fields:
            seen[fields_of(chunk, "attnd.chunk.")["number"]] = fields
    for request in said:
        sent = dict(zip(RECORD_FIELDS, net.RECORD.unpack(request.record)))
        expect(request.number in seen, f"no request {request.number} is seen")
        shown = {name: seen[request.number].get(name) for name in sent}
        expect(shown == sent, f"request {request.number} reads as another one", shown, sent)


def compare_replies(tree, said):
    seen = {}
    for chunk in chunks_of(tree):
        fields = fields_of(chunk, "attnd.completion.")
        if fields:
            seen[fields_of(chunk, "attnd.chunk.")["number"]] = fields
    for request in said:
        for completion in request.stream + [request.completion]:
            expect(completion.number in seen, f"no reply {completion.number} is seen")
            come = dict(zip(COMPLETION_FIELDS, net.COMPLETION.unpack(completion.bytes)))
            shown = seen[completion.number]
            expect({name: shown.get(name) for name in come} == come, f"reply {completion.number} reads as another one", shown, come)
            expect(shown.get("op") == net.RECORD.unpack(request.record)[0], "the reply is said to be another request's", shown)


def compare_payloads(tree, said):
    """The parts of each message, put together."""
    whole = {(net.REQUEST, request.number): request.input for request in said}
    whole.update({(net.REPLY, request.completion.number): request.output for request in said})
    come = {}
    for chunk in chunks_of(tree):
        about, part = fields_of(chunk, "attnd.chunk."), fields_of(chunk, "attnd.part.")
        if "payload" in part:
            first_kind = about["kind"] - 1 if "offset" in part else about["kind"]
            come.setdefault((first_kind, about["number"]), {})[part.get("offset", 0)] = part["payload"]
    for key, payload in whole.items():
        parts = come.get(key, {})
        expect(b"".join(parts[at] for at in sorted(parts)) == payload, f"the payload of {key} is another")


def compare_names(text, said):
    """The lines of the list name operations and statuses."""
    for request in said:
        op = OPS.get(net.RECORD.unpack(request.record)[0], "op 99")
        for words in (f"REQUEST {request.number} {op}", f"REPLY {request.completion.number} {op.replace('op ', '')} "
                      f"{STATUSES[request.completion.status]}"):
            expect(re.search(rf"\b{re.escape(words)}\b", text), f"no line says {words}")


def expect_params(tree):
    """Parameter blocks, by a field of each."""
    for name, value in (("attnd.open.kind", 1), ("attnd.open.kind", ATTENTION), ("attnd.open.head_dim", HEAD_DIM), ("attnd.sampling.seed", 7),
                        ("attnd.sampling.temperature", 0.5), ("attnd.generate.max_tokens", 8), ("attnd.step.output", 3),
                        ("attnd.attend.kv_rows", 1), ("attnd.attend.q_rows", 1), ("attnd.attend.flags.causal", 1),
                        ("attnd.attend.soft_cap", -1.0)):
        expect(any(field.get("name") == name and value_of(field) in (value, str(bool(value))) for field in tree.iter("field")),
               f"no {name} is {value}")


def expect_hello(tree, client, way):
    first = tree.find("packet")
    hello, welcome = fields_of(first, "attnd.hello."), {}
    expect((hello["magic"], hello["version"], hello["cipher"]) == ("attndnet", 1, 0), "HELLO", hello)
    for packet in tree.iter("packet"):
        welcome = welcome or fields_of(packet, "attnd.welcome.")
    expect(welcome["token"] == client.token and welcome["boot_id"] == client.boot_id, "WELCOME", welcome)
    expect(welcome["max_in_flight"] == client.max_in_flight and welcome["flags"] == 0, "WELCOME", welcome)
    kinds = {field.get("show") for field in tree.iter("field") if field.get("name") == "attnd.kind"}
    expect(kinds == ({"1", "2", "3", "4"} if way == "udp" else {"1", "3", "4"}), "kinds of packets", kinds)


# ---- cases -------------------------------------------------------------------------------------------------


def everything(world, way):
    with Capture(world, way) as capture:
        client = world.client(f"{way}-plain")
        said = say_everything(client)
        client.send_ack(net.PROBE)
        client.close()
    tree = capture.packets()
    expect_hello(tree, client, way)
    compare_requests(tree, said)
    compare_replies(tree, said)
    compare_payloads(tree, said)
    compare_names(capture.tshark("-T", "fields", "-e", "_ws.col.Info", "-Y", "attnd"), said)
    expect_params(tree)
    about = {(fields["kind"], fields.get("probe") in (1, "True"), fields.get("why"))
             for fields in (fields_of(chunk, "attnd.chunk.") for chunk in chunks_of(tree))}
    wanted = [net.ACK, net.TAKEN, net.PING, net.PONG] + ([net.HAVE] if way == "udp" else [])
    expect(all((kind, False, None) in about for kind in wanted), "kinds of chunks", about)
    expect((net.ACK, True, None) in about and (net.CLOSE, False, 0) in about, "PROBE and CLOSE", about)


def case_tcp(world):
    """every operation by TCP, found by its HELLO"""
    everything(world, "tcp")


def case_udp(world):
    """every operation by UDP, found by its HELLO, with a cookie"""
    everything(world, "udp")


def case_middle(world):
    """a conversation at the usual port whose beginning is not in the capture"""
    client = net.Client(USUAL)
    with Capture(world, "middle") as capture:
        said = [client.call(net.NOP, os.urandom(size), size) for size in (0, 65, 3001)]
        client.close()
    tree = capture.packets()
    compare_requests(tree, said)
    compare_payloads(tree, said)


def case_sealed(world):
    """what is sealed is said to be, and nothing of it guessed"""
    with Capture(world, "sealed") as capture:
        for way in ("tcp-aesgcm", "udp-chacha"):
            client = world.client(way)
            expect_ok(client.call(net.NOP, bytes(64), 64))
            client.close()
    tree = capture.packets()
    names = {field.get("name") for field in tree.iter("field")}
    expect({"attnd.sealed", "attnd.tag", "attnd.e", "attnd.hello.key"} <= names, "fields are missing", names)
    expect(not chunks_of(tree), "chunks are seen")
    ciphers = {fields_of(packet, "attnd.hello.").get("cipher") for packet in tree.iter("packet")} - {None}
    expect(ciphers == {1, 2}, "ciphers", ciphers)


def case_refused(world):
    """REFUSED, and why"""
    with Capture(world, "refused") as capture:
        for way in ("tcp-plain", "udp-plain"):
            try:
                world.client(way, version=2)
                expect(False, "let in")
            except net.Refused:
                pass
    tree = capture.packets()
    refused = [fields for fields in (fields_of(packet, "attnd.refused.") for packet in tree.iter("packet")) if fields]
    expect(len(refused) >= 2, "REFUSED is not seen")
    for fields in refused:
        expect((fields["why"], fields["version"], fields["ciphers"] & 1) == (1, 1, 1), "REFUSED", fields)


def case_names(world):
    """the script has every operation and status of record.h"""
    with open(SCRIPT) as file:
        text = file.read()
    for names in (OPS, STATUSES):
        for value, name in names.items():
            expect(re.search(rf'\[({value}|{name})\] = "{name}"', text), f"{name} is not in {SCRIPT}")


def main():
    lacking = next((f"no {tool}" for tool in ("tshark", "dumpcap") if not shutil.which(tool)), None) or own_network()
    if lacking:
        print(f"1..0 # SKIP {lacking}")
        return 77
    cases = [(name[5:], function.__doc__, function) for name, function in globals().items() if name.startswith("case_")]
    if not importlib.util.find_spec("cryptography"):
        cases = [case for case in cases if case[0] != "sealed"]
    return run_cases(cases, {"net.cookies": "yes", "listen.usual.address": USUAL, "listen.usual.plain": "yes", "listen.usual.tenant": "local"})


sys.exit(main())
