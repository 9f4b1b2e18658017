#!/usr/bin/env python3
"""A client of the network protocol that was written from docs/PROTOCOL.md alone, against the daemon: every transport, plain and
sealed, with losses, wrong keys, sockets that break in mid-stream. Time limit: 300 s

    ATTND_BUILD=build tests/system/test_net_python.py [NAME...]

Prints TAP. One daemon with three listeners on loopback serves all cases; UDP clients are asked for a cookie.
"""
import os
import random
import socket
import struct
import sys
import time

from net_world import ROOT, Broken, expect, expect_ok, run_cases

try:
    import attnd_noise as noise
except ImportError as problem:
    print(f"1..0 # SKIP {problem} (Debian: python3-cryptography)")
    sys.exit(77)
import attnd_client as net
import attnd_vectors as vectors

PROMPT = "The"
LOSS = 0.2
LONG = 400


WAYS = [f"{transport}-{cipher}" for transport in ("tcp", "udp", "unix") for cipher in ("plain", "aesgcm", "chacha")]
SEALED = [way for way in WAYS if "plain" not in way]
ONE_EACH = ["tcp-aesgcm", "udp-chacha", "unix-plain", "udp-plain"]


def session_of(client, **more):
    return expect_ok(client.open_model(**more)).completion.value


def position_of(client, session):
    return struct.unpack_from("<IIII", expect_ok(client.call(net.DESCRIBE, capacity=64, argument=2, session=session)).output)[3]


def prompt_ids(client):
    asked = expect_ok(client.call(net.TOKENIZE, PROMPT.encode(), 1024, flags=4))
    return list(struct.unpack(f"<{asked.completion.value}I", asked.output))


def any_stream(client, session, seed):
    """A stream that says anything, and not the model's one sentence."""
    return client.generate(session, [1, 5], LONG, temperature=50.0, seed=seed)


def long_stream(world, client, session):
    """One that goes on for LONG tokens: a seed is looked for with which it says its end-of-text that late."""
    while True:
        tried = session_of(client)
        if len(client.wait(any_stream(client, tried, world.seed)).tokens) == LONG:
            break
        world.seed += 1
        expect(world.seed < 100, "no stream is long")
    return any_stream(client, session, world.seed)


def pump_until(client, condition, timeout_s=20):
    until = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < until:
        client.pump()
    expect(condition(), "it did not come in time")


def text_of(client, ids):
    return expect_ok(client.call(net.DETOKENIZE, struct.pack(f"<{len(ids)}I", *ids), 4096)).output.decode()


def case_document(world, way):
    """the document has the vectors that this client makes"""
    with open(f"{ROOT}/docs/PROTOCOL.md") as file:
        expect(vectors.text() in file.read(), "docs/PROTOCOL.md has others; tests/system/attnd_vectors.py prints them")


# ---- what is asked and answered ----------------------------------------------------------------------------


def case_describe(world, way):
    """who is there, and what time it is there"""
    client = world.client(way)
    info = expect_ok(client.call(net.DESCRIBE, capacity=256)).output
    size, version, boot_id, _, models = struct.unpack_from("<IIQqI", info)
    expect((size, version, boot_id, models) == (256, 1, client.boot_id, 1), "another daemon", info)
    model = expect_ok(client.call(net.DESCRIBE, capacity=256, argument=1)).output
    expect(model[8:72].rstrip(b"\0") == b"tiny", "another model", model)
    for _ in range(20):
        client.ping()
        pump_until(client, lambda: client.pong_come)
    expect(abs(client.clock_offset_ns) <= client.best_trip_ns // 2 + 1, "clocks of one machine differ", client.clock_offset_ns,
           client.best_trip_ns)
    client.close()


def case_echo(world, way):
    """NOP with nothing, a little and a lot, one after the other and together"""
    client = world.client(way)
    sizes = (0, 1, 64, 1023, 1024, 1025, 15000, 16384, 100000)
    for size in sizes:
        payload = random.randbytes(size)
        expect(expect_ok(client.call(net.NOP, payload, size)).output == payload, f"{size} bytes come back changed")
    requests = [client.submit(net.NOP, random.randbytes(size), size) for size in sizes]
    for request in requests:
        expect(expect_ok(client.wait(request)).output == request.input, f"{len(request.input)} bytes come back changed")
    client.close()


def case_text(world, way):
    """the tokens are those of shared memory, greedily and drawn"""
    client = world.client(way)
    for temperature, seed in ((0.0, 0), (1.0, 7)):
        session = session_of(client)
        asked = client.wait(client.generate(session, prompt_ids(client), 24, temperature=temperature, seed=seed))
        expect_ok(asked)
        expect([c.sequence for c in asked.stream] == list(range(len(asked.tokens))), "sequence", asked.tokens)
        expect(asked.output == struct.pack(f"<{len(asked.tokens)}I", *asked.tokens), "the result is not the stream")
        there = world.attnrun("-p", PROMPT, "-n", "24", "--temp", str(temperature), "--seed", str(seed))
        here = text_of(client, asked.tokens)
        expect(here.strip() == there.strip(), "another text", repr(here), repr(there))
        expect_ok(client.call(net.CLOSE_SESSION, session=session))
    client.close()


def case_steps(world, way):
    """STEP by STEP the same tokens as GENERATE; errors have their statuses"""
    client = world.client(way)
    ids = prompt_ids(client)
    session, other = session_of(client), session_of(client)
    stream = expect_ok(client.wait(client.generate(session, ids, 8))).tokens
    come, following = [], ids
    for _ in stream:
        step = expect_ok(client.wait(client.step(other, following)))
        following = [step.completion.value]
        expect(struct.unpack("<I", step.output)[0] == step.completion.value, "value and result")
        come += following
    expect(come == stream, "STEP and GENERATE differ", come, stream)
    expect(client.wait(client.step(other, [0], position=1, flags=1)).completion.status == 22, "BAD_POSITION")
    expect(client.wait(client.step(12345, [0])).completion.status in (23, 24), "BAD_SESSION")
    expect(client.call(99).completion.status == 17, "BAD_OP")
    client.close()


def case_cancel(world, way):
    """CANCEL ends a stream, that waits for credits, where it is"""
    client = world.client(way)
    session = session_of(client)
    stream = long_stream(world, client, session)
    client.deaf = lambda kind, number: kind == net.REPLY and len(stream.stream) >= 3  # no credits are given back
    pump_until(client, lambda: len(stream.stream) >= 3)
    client.deaf = lambda kind, number: False
    cancel = client.call(net.CANCEL, args=stream.number, session=session)
    client.wait(stream)
    expect(cancel.completion.value == 1, "it was not found")
    expect(stream.completion.status == net.CANCELLED, f"status {stream.completion.status}")
    expect(position_of(client, session) == stream.completion.position, "position")
    client.close()


def case_credits(world, way):
    """a stream stops without credits, and goes on with them"""
    client = world.client(way)
    session = session_of(client)
    client.resend_s = client.probe_s = 1000
    stream = long_stream(world, client, session)
    client.mute = lambda kind, number: kind == net.ACK
    pump_until(client, lambda: len(stream.stream) >= client.stream_credits)
    quiet = time.monotonic() + 0.3
    while time.monotonic() < quiet:
        client.pump()
    expect(len(stream.stream) == client.stream_credits, f"{len(stream.stream)} tokens for {client.stream_credits} credits")
    client.mute = lambda kind, number: False
    client.send_ack()
    expect_ok(client.wait(stream))
    expect(len(stream.stream) == LONG, f"{len(stream.stream)} tokens")
    client.close()


# ---- losses ------------------------------------------------------------------------------------------------


def case_resume(world, way):
    """a stream whose socket breaks goes on where it stopped"""
    client = world.client(way)
    whole = expect_ok(client.wait(long_stream(world, client, session_of(client)))).tokens
    session = session_of(client)
    stream = any_stream(client, session, world.seed)
    for broken_at in (5, 100, 250):
        pump_until(client, lambda: len(stream.stream) >= broken_at)
        expect(not stream.completion, "it is over")
        client.resume()
        expect(client.resumed, "the daemon does not say RESUMED")
    expect_ok(client.wait(stream))
    expect(stream.tokens == whole, "another stream", stream.tokens, whole)
    expect([c.sequence for c in stream.stream] == list(range(len(whole))), "sequence")
    following = client.wait(client.step(session, [whole[-1]]))
    expect_ok(following)
    client.close()


def case_once(world, way):
    """a STEP whose reply is lost, and that is sent again, steps once"""
    client = world.client(way)
    session = session_of(client)
    client.deaf = lambda kind, number: kind in (net.REPLY, net.TAKEN)
    step = client.step(session, [5, 6, 7])
    for _ in range(5):
        client.pump(0.1)
        client.send_request(step)
    expect(step.completion is None, "the reply was not lost")
    client.deaf = lambda kind, number: False
    client.probe_s = 0.01
    client.last_heard_s = 0
    client.wait(step)
    expect_ok(step)
    expect(step.completion.position == 3 and position_of(client, session) == 3, f"it stepped to {position_of(client, session)}")
    client.send_request(step)  # also long after
    expect(position_of(client, session) == 3, "it stepped again")
    # The same over a new socket, the reply lost with the old one.
    client.deaf = lambda kind, number: kind == net.REPLY
    step = client.step(session, [8])
    client.pump(0.2)
    client.deaf = lambda kind, number: False
    client.resume()
    client.send_request(step)
    expect_ok(client.wait(step))
    expect(position_of(client, session) == 4, "it stepped again after RESUMED")
    client.close()


def case_loss(world, way):
    """one in five of all parts, replies and acknowledgements lost, both ways; with HAVE and without"""
    for features in (net.FEATURE_HAVE, 0):
        client = world.client(way, features=features)
        expect(client.haves == bool(features), "HAVE was not agreed on")
        chance = random.Random(1)
        payload = random.randbytes(250000 if features else 50000)
        losses = [0]

        def lose(kind, number):
            loses = chance.random() < LOSS
            losses[0] += loses
            return loses

        client.deaf = client.mute = lose
        client.resend_s = client.probe_s = 0.02
        session = session_of(client)
        echo, stream = client.submit(net.NOP, payload, len(payload)), long_stream(world, client, session)
        expect_ok(client.wait(echo, stream, timeout_s=60))
        expect(echo.output == payload, "the payload is another")
        expect([c.sequence for c in stream.stream] == list(range(LONG)), "sequence")
        expect(losses[0] > 0 and client.sent_again > 0, "nothing was lost, or sent again")
        client.deaf = client.mute = lambda kind, number: False
        client.close()


def case_hello_lost(world, way):
    """HELLO goes again until WELCOME comes; a cookie is asked for, and WELCOME comes again"""
    heard = []

    def lose_two(kind):
        heard.append(kind)
        return heard.count(kind) > 1

    client = world.client(way, heard=lose_two)
    expect(heard.count(net.COOKIE) >= 2 and heard.count(net.WELCOME) >= 2 and heard == sorted(heard), "other packets", heard)
    expect_ok(client.call(net.NOP))
    client.close()


def case_rekey(world, way):
    """a packet of the next key opens, and so does a late one of the last"""
    client = world.client(way)
    client.link.sent_count = (1 << noise.REKEY_SHIFT) - 2
    for _ in range(6):
        expect_ok(client.call(net.NOP, b"x" * 64, 64))
    client.close()


def case_forged(world, way):
    """datagrams that do not open, that come again, and that are nobody's change nothing"""
    client = world.client(way)
    session = session_of(client)
    sent = []
    send_raw = client.link.send_raw
    client.link.send_raw = lambda data: (sent.append(data), send_raw(data))
    expect_ok(client.wait(client.step(session, [1])))
    for data in sent:
        send_raw(data)
        for at in (20, 24, 40, len(data) - 1):
            send_raw(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
    expect(position_of(client, session) == 1, "it stepped again")
    with socket.socket(type=socket.SOCK_DGRAM) as stranger:
        stranger.connect(client.link.socket.getpeername())
        stranger.settimeout(10)
        stranger.send(struct.pack("<B7xQQ", net.DATA, 0x1234567812345678, 0) + bytes(32))
        answer = stranger.recv(2048)
    expect(answer[0] == net.REFUSED and struct.unpack_from("<I", answer, 24)[0] == 7, "why 7", answer)
    client.close()


# ---- refusals ----------------------------------------------------------------------------------------------


def refused(world, way, **more):
    try:
        world.client(way, **more)
    except net.Refused as refusal:
        return refusal
    return Broken("let in")


def case_refused(world, way):
    """a wrong key is 3, another version 1, a cipher that nobody has 2"""
    if "plain" not in way:
        refusal = refused(world, way, key=world.stranger)
        expect(refusal.why == 3, f"a strange key: {refusal}")
    refusal = refused(world, way, version=2)
    expect(refusal.why == 1 and refusal.version == 1, f"version 2: {refusal}")
    if "plain" in way:
        refusal = refused(world, way, cipher=77)
        expect(refusal.why == 2 and refusal.ciphers == 7, f"cipher 77: {refusal}")


def case_bye(world, way):
    """after CLOSE the token is unknown, and the sessions are gone"""
    def sessions():
        return struct.unpack_from("<I", expect_ok(other.call(net.DESCRIBE, capacity=256)).output, 32)[0]

    client, other = world.client(way), world.client(way)
    before = sessions()
    session_of(client)
    expect(sessions() == before + 1, "no session was opened")
    client.close()
    pump_until(other, lambda: sessions() == before)
    other.close()
    try:
        client.connect()
        raise Broken("it was resumed")
    except net.Refused as refusal:
        expect(refusal.why == 7, f"{refusal}")


CASES = [(case_document, ["text"]), (case_describe, WAYS), (case_echo, WAYS), (case_text, WAYS), (case_steps, WAYS),
         (case_cancel, ONE_EACH), (case_credits, ONE_EACH), (case_resume, WAYS), (case_once, WAYS), (case_loss, ["udp-plain", "udp-aesgcm", "udp-chacha"]),
         (case_hello_lost, ["udp-plain", "udp-aesgcm", "udp-chacha"]), (case_rekey, ["udp-aesgcm", "udp-chacha"]),
         (case_forged, ["udp-aesgcm", "udp-chacha"]), (case_refused, WAYS), (case_bye, WAYS)]


def main():
    cases = [(f"{function.__name__[5:]}-{way}", function.__doc__, function, way) for function, ways in CASES for way in ways]
    return run_cases([(name, what, lambda world, function=function, way=way: function(world, way)) for name, what, function, way in cases],
                     {"net.cookies": "yes"})


sys.exit(main())
