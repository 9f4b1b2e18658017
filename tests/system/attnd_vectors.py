#!/usr/bin/env python3
"""The test vectors of docs/PROTOCOL.md: one exchange with fixed keys and ephemeral secrets, under both ciphers.

    attnd_vectors.py        prints the block as it stands in the document

tests/system/test_net_python.py compares the document with this, tests/unit/test_net_document.c the daemon's own code with the document.
"""
import struct
import sys

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import attnd_client as net
import attnd_noise as noise

KEY = bytes(range(32))
CLIENT_SECRET = bytes((3 * i + 1) % 256 for i in range(32))
DAEMON_SECRET = bytes((5 * i + 2) % 256 for i in range(32))
CONNECTION, LATER = 0x0123456700000001, 1 << 24
PER_LINE = 48


def parts():
    """What is sealed: HELLO's part and WELCOME's, and the chunks of one packet each way."""
    hello = net.HELLO_SEALED.pack(0, bytes(16), 0, 0, 1_000_000_000)
    welcome = net.WELCOME_SEALED.pack(0, 0x1122334455667788, bytes(range(0xA0, 0xB0)), 2_000_000_000, 1_000_000_000, 64, 64, 1 << 22,
                                      1 << 24, 0, 10000, 0, 0, CONNECTION)
    record = net.RECORD.pack(net.NOP, 0, 0, 1, 0, 0, 0x77, 0, 0, 0, 0, 0, 5, 0, 5, 0)
    asked = net.chunk(net.PING, 0, struct.pack("<q", 1_000_500_000)) + net.chunk(net.REQUEST, 1, record + b"hello")
    completion = net.COMPLETION.pack(0x77, net.OK, net.FINAL, 0, 0, 5, 0, 2_000_600_000, 0, 0, 2_000_610_000, 0)
    answered = (net.chunk(net.PONG, 0, struct.pack("<qqq", 1_000_500_000, 2_000_600_000, 2_000_620_000)) +
                net.chunk(net.TAKEN, 1, struct.pack("<II", 0, 0)) + net.chunk(net.REPLY, 1, completion + b"hello"))
    return hello, welcome, asked, answered


def sealed(cipher):
    """The exchange under one cipher, over a stream; then a datagram of the next key."""
    hello, welcome, asked, answered = parts()
    clear = net.CLEAR.pack(b"attndnet", 1, cipher, 0, 0, noise.key_name(KEY), bytes(32))
    client = noise.Handshake(cipher, KEY, clear, X25519PrivateKey.from_private_bytes(CLIENT_SECRET))
    daemon = noise.Handshake(cipher, KEY, clear, X25519PrivateKey.from_private_bytes(DAEMON_SECRET))
    first = clear + client.write_first(hello)
    yield "key of HELLO", client.key
    assert daemon.read_first(first[len(clear):]) == hello
    second = daemon.write_second(welcome)
    yield "key of WELCOME", daemon.key
    assert client.read_second(second) == welcome and client.hash == daemon.hash
    to_daemon, to_client = client.split()
    yield "hash", client.hash
    yield "client's key", to_daemon.key
    yield "daemon's key", to_client.key
    stream, datagram = net.Link.__new__(net.Link), net.Link.__new__(net.Link)
    stream.datagram, datagram.datagram, datagram.connection = False, True, CONNECTION
    yield "HELLO", stream.head(net.HELLO, len(first)) + first
    yield "WELCOME", stream.head(net.WELCOME, len(second)) + second
    for name, keys, body in ("client's DATA 0", to_daemon, asked), ("daemon's DATA 0", to_client, answered):
        head = stream.head(net.DATA, len(body) + net.TAG_BYTES)
        yield name, head + keys.seal(0, head, body)
    head = datagram.head(net.DATA, 0, LATER)
    body = to_daemon.seal(LATER, head, net.chunk(net.CLOSE, 0, b""))
    yield "client's next key", to_daemon.key
    yield "client's DATAGRAM", head + body


def vectors():
    hello, welcome, asked, answered = parts()
    yield "key", KEY
    yield "its name", noise.key_name(KEY)
    yield "client's secret", CLIENT_SECRET
    yield "daemon's secret", DAEMON_SECRET
    yield "client's e", noise.public_key(X25519PrivateKey.from_private_bytes(CLIENT_SECRET))
    yield "daemon's e", noise.public_key(X25519PrivateKey.from_private_bytes(DAEMON_SECRET))
    yield "HELLO's part", hello
    yield "WELCOME's part", welcome
    yield "client's chunks", asked
    yield "daemon's chunks", answered
    for cipher in noise.AESGCM_CIPHER, noise.CHACHA_CIPHER:
        for name, data in sealed(cipher):
            yield f"{cipher} {name}", data


def text():
    lines = []
    for name, data in vectors():
        for at in range(0, len(data), PER_LINE):
            lines.append(f"{'' if at else name:20} {data[at:at + PER_LINE].hex()}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
