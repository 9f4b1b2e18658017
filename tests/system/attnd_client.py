#!/usr/bin/env python3
"""A client of attnd over TCP, UDP and Unix sockets, written from docs/PROTOCOL.md and attnd/record.h alone.

    attnd_client.py [--key FILE] [--cipher aesgcm|chacha] ADDRESS     says who answers at tcp:HOST:PORT, udp:.. or unix:/PATH

It is there to prove that the document suffices, and to test the daemon against a client that shares no code with it. One
thread, blocking, plain rather than fast: everything moves in Client.pump(). Python's own library, and `cryptography` for
sealed connections. Client.deaf and Client.mute let a test lose what it likes, in both directions.
"""
import argparse
import select
import socket
import struct
import sys
import time

VERSION = 1
HELLO, COOKIE, WELCOME, DATA, REFUSED = 1, 2, 3, 4, 5
REQUEST, REQUEST_MORE, REPLY, REPLY_MORE, ACK, TAKEN, PING, PONG, CLOSE, HAVE = range(1, 11)
PROBE, AGAIN, RESUMED, FEATURE_HAVE = 1, 1, 1, 1
PLAIN = 0
WHY = ["bye", "version", "cipher", "key", "full", "draining", "broken", "unknown", "moved"]

STREAM_BODY, TAG_BYTES, HEAD_BYTES = 16400, 16, 24
UNIT_BYTES = 1024
PACKETS_PER_PUMP = 16
UNITS_UNDER_WAY = 64  # the document allows more where nothing is lost
DATAGRAM_BYTES, HELLO_BYTES = 1472, 512

NOP, DESCRIBE, OPEN, STEP, GENERATE, APPEND, ATTEND, TOKENIZE, DETOKENIZE, FORK, TRUNCATE, CLOSE_SESSION, CANCEL = range(1, 14)
OK, CANCELLED = 0, 3
FINAL = 1

RECORD = struct.Struct("<BBBBHHQQqIIIIIIQ")
COMPLETION = struct.Struct("<QBBHIIIqqqqQ")
CHUNK = struct.Struct("<BBHI")
CLEAR = struct.Struct("<8sHBBI16s32s")
HELLO_SEALED = struct.Struct("<Q16sIIq")
WELCOME_SEALED = struct.Struct("<QQ16sqqIIIIIIIIQ")
REFUSED_BODY = struct.Struct("<IIH6x")


class Refused(Exception):
    """The daemon said no, or CLOSE: why."""

    def __init__(self, why, ciphers=0, version=0):
        super().__init__(WHY[why] if why < len(WHY) else f"why {why}")
        self.why, self.ciphers, self.version = why, ciphers, version


class Lost(Exception):
    """The socket broke, or nothing came any more. The connection may be resumed."""


def after(a, b):
    """Whether number a comes after b; numbers wrap."""
    return 0 < (a - b) & 0xFFFFFFFF < 1 << 31


def chunk(kind, number, content, flags=0):
    return CHUNK.pack(kind, flags, len(content), number & 0xFFFFFFFF) + content + bytes(-len(content) % 8)


def chunks_of(body):
    at = 0
    while at < len(body):
        kind, flags, length, number = CHUNK.unpack_from(body, at)
        if at + 8 + length > len(body):
            raise ValueError("a chunk is longer than its packet")
        yield kind, flags, number, body[at + 8:at + 8 + length]
        at += 8 + length + -length % 8


def now_ns():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class Link:
    """One socket, one handshake, one pair of keys. A resumed connection has another link."""

    def __init__(self, address, cipher, key, ephemeral=None):
        self.cipher, self.key, self.ephemeral = cipher, key, ephemeral
        kind, _, rest = address.partition(":")
        self.datagram = kind == "udp"
        if kind == "unix":
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            where = rest
        else:
            host, _, port = rest.rpartition(":")
            family, how, protocol, _, where = socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_DGRAM if self.datagram else socket.SOCK_STREAM)[0]
            self.socket = socket.socket(family, how, protocol)
        self.socket.connect(where)
        if kind == "tcp":
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received, self.connection = b"", 0
        self.sent_count = self.come_count = 0  # numbers of the next packets
        self.newest, self.seen = -1, 0  # datagrams that have come: a bit for each behind the newest
        self.handshake = self.send_keys = self.receive_keys = None
        self.packet_bytes = STREAM_BODY - TAG_BYTES  # of chunks

    def head(self, kind, length, number=0):
        if self.datagram:
            return struct.pack("<B7xQQ", kind, self.connection, number)
        return struct.pack("<I", length | kind << 24)

    def send_raw(self, data):
        try:
            self.socket.sendall(data)
        except (ConnectionRefusedError if self.datagram else ()):
            pass  # ICMP: as good as lost
        except OSError as problem:
            raise Lost(str(problem)) from problem

    def send_data(self, body):
        number, self.sent_count = self.sent_count, self.sent_count + 1
        head = self.head(DATA, len(body) + (TAG_BYTES if self.send_keys else 0), number)
        if self.send_keys:
            body = self.send_keys.seal(number, head, body)
        self.send_raw(head + body)

    def receive(self, timeout_s):
        """The packets that are there, as (kind, head, body); waits until the first one or the timeout."""
        if not select.select([self.socket], [], [], max(timeout_s, 0))[0]:
            return []
        try:
            data = self.socket.recv(65536)
        except ConnectionRefusedError:
            return []
        except OSError as problem:
            raise Lost(str(problem)) from problem
        if self.datagram:
            return [(data[0], data[:HEAD_BYTES], data[HEAD_BYTES:])] if len(data) >= HEAD_BYTES else []
        if not data:
            raise Lost("the daemon closed the socket")
        self.received += data
        packets = []
        while len(self.received) >= 4:
            word = struct.unpack_from("<I", self.received)[0]
            end = 4 + (word & 0xFFFFFF)
            if end > 4 + STREAM_BODY:
                raise ValueError("a packet is too long")
            if len(self.received) < end:
                break
            packets.append((word >> 24, self.received[:4], self.received[4:end]))
            self.received = self.received[end:]
        return packets

    def open_data(self, head, body):
        """A DATA packet's chunks, or None for a datagram that is forged, old, or was there."""
        number = struct.unpack_from("<Q", head, 16)[0] if self.datagram else self.come_count
        self.come_count += 1
        if self.datagram and (number <= self.newest - 1024 or number <= self.newest and self.seen >> self.newest - number & 1):
            return None
        if self.receive_keys:
            try:
                body = self.receive_keys.unseal(number, head, body)
            except Exception:
                if self.datagram:
                    return None
                raise
        if self.datagram:
            ahead = max(number - self.newest, 0)
            self.newest += ahead
            self.seen = (self.seen << ahead | 1 << self.newest - number) & (1 << 1024) - 1
        return body

    def say_hello(self, sealed_part, cookie, version=VERSION):
        """Makes HELLO anew, with an e of its own, and sends it."""
        name = bytes(16)
        if self.key:
            import attnd_noise as noise
            name = noise.key_name(self.key)
        body = CLEAR.pack(b"attndnet", version, self.cipher, 0, 0, name, cookie)
        if not self.key:
            body += sealed_part
        else:
            self.handshake = noise.Handshake(self.cipher, self.key, body, self.ephemeral)
            body += self.handshake.write_first(sealed_part)
        if self.datagram:
            body = body.ljust(HELLO_BYTES - HEAD_BYTES, b"\0")
        self.hello = self.head(HELLO, len(body)) + body
        self.send_raw(self.hello)

    def welcome_part(self, body):
        if not self.key:
            return body
        part = self.handshake.read_second(body)
        self.send_keys, self.receive_keys = self.handshake.split()
        return part

    def shake_hands(self, sealed_part, version=VERSION, tries=6, first_wait_s=0.2, heard=lambda kind: True):
        """Says HELLO until WELCOME comes; returns WELCOME's part."""
        self.say_hello(sealed_part, bytes(32), version)
        refused, wait_s = None, first_wait_s if self.datagram else 5
        for _ in range(tries if self.datagram else 1):
            end = time.monotonic() + wait_s
            while time.monotonic() < end:
                for kind, head, body in self.receive(end - time.monotonic()):
                    if not heard(kind):
                        continue
                    if kind == COOKIE and self.datagram and len(body) == 32 and body != self.hello[56:88]:
                        self.say_hello(sealed_part, body, version)
                    elif kind == REFUSED and len(body) >= REFUSED_BODY.size:
                        refused = Refused(*REFUSED_BODY.unpack_from(body))
                    elif kind == WELCOME:
                        try:
                            return WELCOME_SEALED.unpack(self.welcome_part(body))
                        except Exception:
                            if not self.datagram:
                                raise
                if refused and not self.datagram:
                    raise refused
            if refused:
                raise refused  # on a datagram socket only now, when nothing better has come
            if self.datagram:
                self.send_raw(self.hello)
            wait_s *= 1.5
        raise Lost("no WELCOME came")


def units_of(count):
    return (count + UNIT_BYTES - 1) // UNIT_BYTES


def bitmap(first, numbers):
    """Words whose bit i says whether first + i is among the numbers."""
    bits = sum(1 << (number - first & 0xFFFFFFFF) for number in set(numbers))
    return [bits >> at & (1 << 64) - 1 for at in range(0, bits.bit_length(), 64)]


def numbers_of(first, words):
    return {first + at * 64 + bit & 0xFFFFFFFF for at, word in enumerate(words) for bit in range(64) if word >> bit & 1}


class Message:
    """A message that comes in parts."""

    def __init__(self):
        self.record, self.payload, self.come, self.total = None, None, set(), None
        self.said = 0  # units that HAVE has told of

    def first_missing(self):
        return next(unit for unit in range(len(self.come) + 1) if unit not in self.come)

    def has_holes(self):
        return bool(self.come) and self.first_missing() < max(self.come)

    def add(self, offset, total, data):
        if self.payload is None:
            self.payload, self.total = bytearray(total), total
        if total != self.total or offset + len(data) > total or offset % UNIT_BYTES:
            raise ValueError("parts of a message do not fit together")
        self.payload[offset:offset + len(data)] = data
        self.come.update(range(offset // UNIT_BYTES, units_of(offset + len(data))))

    def whole(self):
        return self.record is not None and len(self.come) == units_of(self.total)


class Request:
    """One request: what was asked, and what has come of it. `stream` holds the completions without FINAL."""

    def __init__(self, number, record, payload):
        self.number, self.record, self.input = number, record, payload
        self.stream, self.completion, self.output = [], None, b""
        self.sent_s = 0.0
        self.begin()

    def begin(self):
        """Nothing of it is under way."""
        self.top = 0            # units sent so far
        self.have = set()       # units that have come, as far as the daemon has said

    def under_way(self):
        return self.top - len({unit for unit in self.have if unit < self.top})

    @property
    def tokens(self):
        return [completion.value for completion in self.stream]


class Completion:
    def __init__(self, data):
        self.bytes = bytes(data)
        (self.request_id, self.status, self.flags, self.lap, self.sequence, self.result_bytes, self.position,
         self.received_ns, self.admitted_ns, self.started_ns, self.done_ns, self.value) = COMPLETION.unpack(data)


class Client:
    def __init__(self, address, key=None, cipher=None, version=VERSION, features=FEATURE_HAVE, heard=lambda kind: True):
        self.features, self.again_s, self.haves_said = features, 0.0, 0
        self.address, self.key = address, key
        self.cipher = cipher or (PLAIN if key is None else 1)
        self.version, self.heard = version, heard
        self.deaf = lambda kind, number: False  # chunks from the daemon that are lost
        self.mute = lambda kind, number: False  # chunks to the daemon that are lost
        self.token, self.next_number, self.requests = bytes(16), 1, {}
        self.taken, self.taken_later = 0, set()
        self.reply_come, self.parts, self.later = 0, {}, {}
        self.credits = 0
        self.best_trip_ns, self.clock_offset_ns = None, 0
        self.resend_s, self.probe_s = 0.1, 0.1
        self.sent_again = self.probes = self.twice = 0
        self.owes_ack = False
        self.connect()

    # ---- the connection ----

    def connect(self):
        """Says HELLO over a new socket, with the token of before if there is one."""
        self.link = Link(self.address, self.cipher, self.key)
        datagram_bytes = DATAGRAM_BYTES if self.link.datagram else 0
        offered = self.features if self.link.datagram else 0
        part = HELLO_SEALED.pack(offered, self.token, self.reply_come, datagram_bytes, now_ns())
        (features, self.boot_id, token, daemon_ns, clock_ns, self.max_in_flight, self.stream_credits, self.window_bytes,
         self.message_bytes, taken, self.resume_ms, datagram_bytes, flags, self.link.connection) = self.link.shake_hands(
            part, self.version, heard=self.heard)
        if self.token != bytes(16) and not flags & RESUMED:
            raise Refused(7)  # what was is gone
        self.resumed, self.token, self.haves = bool(flags & RESUMED), token, bool(features & FEATURE_HAVE)
        if self.link.datagram:
            self.link.packet_bytes = datagram_bytes - HEAD_BYTES - (TAG_BYTES if self.key else 0)
        self.take_clock(clock_ns, daemon_ns, daemon_ns, now_ns())
        self.taken, self.taken_later = taken, set()
        self.last_heard_s = self.last_probe_s = time.monotonic()
        self.ping()
        if self.resumed:
            self.send_ack(PROBE)  # the replies that went over the old socket
        for request in self.not_taken():
            request.begin()
            self.send_request(request)

    def resume(self):
        """Goes on where the connection was, over a new socket."""
        self.link.socket.close()
        self.connect()

    def close(self, why=0):
        self.send([chunk(CLOSE, why, b"")])
        self.link.socket.close()

    def take_clock(self, sent, received, answered, now):
        """The sample with the shortest way there and back tells the most."""
        trip = now - sent - (answered - received)
        if self.best_trip_ns is None or trip < self.best_trip_ns:
            self.best_trip_ns, self.clock_offset_ns = trip, ((received - sent) + (answered - now)) // 2

    def ping(self):
        self.pong_come = False
        self.send([chunk(PING, 0, struct.pack("<q", now_ns()))])

    # ---- sending ----

    def send(self, chunks):
        """Chunks, packed into as few packets as they fit into."""
        body = b""
        for one in chunks:
            kind, _, _, number = CHUNK.unpack_from(one)
            if self.mute(kind, number):
                continue
            if body and len(body) + len(one) > self.link.packet_bytes:
                self.link.send_data(body)
                body = b""
            body += one
        if body:
            self.link.send_data(body)

    def request_part(self, request, unit, units):
        """The chunk with the record and the first units, or with some later ones."""
        total, at, end = len(request.input), unit * UNIT_BYTES, (unit + units) * UNIT_BYTES
        if unit == 0:
            return chunk(REQUEST, request.number, request.record + request.input[:end])
        return chunk(REQUEST_MORE, request.number, struct.pack("<II", at, total) + request.input[at:end])

    def send_units(self, request, wanted):
        """Runs of units, each as long as a packet takes. A first part has the record too, and at least one unit if there is any."""
        chunks, unit = [], 0
        while unit < len(wanted):
            before = 8 + (64 if wanted[unit] == 0 else 8)
            most = (self.link.packet_bytes - before) // UNIT_BYTES
            if wanted[unit] == 0 and before + len(request.input) + -len(request.input) % 8 <= self.link.packet_bytes:
                most += 1  # the rest, which is no whole unit
            run = 1
            while run < most and unit + run < len(wanted) and wanted[unit + run] == wanted[unit] + run:
                run += 1
            chunks.append(self.request_part(request, wanted[unit], run))
            unit += run
        if not wanted:
            chunks.append(self.request_part(request, 0, 0))
        request.sent_s = time.monotonic()
        self.send(chunks)

    def send_request(self, request):
        """What is not known to have come of it, as far as may be under way."""
        units = units_of(len(request.input))
        wanted = [unit for unit in range(units) if unit not in request.have]
        if self.haves:
            request.top = min(max(request.top, UNITS_UNDER_WAY), units)
            wanted = [unit for unit in wanted if unit < request.top] or wanted[:1]
        self.send_units(request, wanted)

    def send_on(self, request):
        """Units that have not been sent, when others have come."""
        units = units_of(len(request.input))
        top = min(request.top + UNITS_UNDER_WAY - request.under_way(), units)
        if top > request.top:
            wanted = list(range(request.top, top))
            request.top = top
            self.send_units(request, wanted)

    def submit(self, op, payload=b"", capacity=0, flags=0, klass=0, session=0, deadline_ns=0, position=0, argument=0, args=0,
               request_id=None):
        number = self.next_number
        self.next_number = (number + 1) & 0xFFFFFFFF
        record = RECORD.pack(op, flags, klass, VERSION, 0, 0, number if request_id is None else request_id, session, deadline_ns,
                             position, argument, 0, len(payload), 0, capacity, args)
        request = self.requests[number] = Request(number, record, payload)
        self.send_request(request)
        return request

    def send_ack(self, flags=0):
        """What has come: of long replies that are not whole too, and what is missing of them once in a while."""
        chunks, now = [], time.monotonic()
        partial = [(number, message) for number, message in self.parts.items() if message.come] if self.haves else []
        again = any(message.has_holes() for _, message in partial) and now - self.again_s > max(0.001, (self.best_trip_ns or 0) / 1e9)
        if again:
            self.again_s = now
        for number, message in partial[:4]:
            first = message.first_missing()
            words = bitmap(first + 1, [unit for unit in message.come if unit > first])[:16]
            chunks.append(chunk(HAVE, number, struct.pack(f"<II{len(words)}Q", first, len(words), *words), AGAIN if again and words else 0))
            message.said = len(message.come)
            self.haves_said += 1
        words = bitmap(self.reply_come + 1, self.later)
        self.owes_ack = False
        self.send(chunks + [
            chunk(ACK, self.reply_come, struct.pack(f"<II{len(words)}Q", self.credits & 0xFFFFFFFF, len(words), *words), flags)])

    # ---- receiving ----

    def pump(self, timeout_s=0.05):
        """Takes what has come, acknowledges it, and sends again what is due."""
        packets = self.link.receive(timeout_s)
        while packets and len(packets) < PACKETS_PER_PUMP and (more := self.link.receive(0)):
            packets += more
        for kind, head, body in packets:
            if kind == REFUSED and len(body) >= REFUSED_BODY.size:
                refused = Refused(*REFUSED_BODY.unpack_from(body))
                if refused.why == 7:
                    raise Lost("the daemon does not know the connection")
                if not self.link.datagram:
                    raise refused
            if kind != DATA:
                continue
            plain = self.link.open_data(head, body)
            if plain is not None:
                self.last_heard_s = time.monotonic()
                for one in chunks_of(plain):
                    if not self.deaf(one[0], one[2]):
                        self.take_chunk(*one)
        self.deliver()
        if self.owes_ack:
            self.send_ack()
        self.keep_time()

    def take_chunk(self, kind, flags, number, content):
        if kind in (REPLY, REPLY_MORE):
            self.owes_ack = True
            if not after(number, self.reply_come) or number in self.later:
                self.twice += 1
                return
            message = self.parts.setdefault(number, Message())
            if kind == REPLY:
                message.record = Completion(content[:64])
                message.add(0, message.record.result_bytes, content[64:])
            else:
                message.add(*struct.unpack_from("<II", content), content[8:])
            if message.whole():
                self.later[number] = self.parts.pop(number)
        elif kind == TAKEN:
            self.take_taken(flags, number, content)
        elif kind == HAVE:
            self.take_have(number, content)
        elif kind == PING:
            received = now_ns()
            self.send([chunk(PONG, number, content + struct.pack("<qq", received, now_ns()))])
        elif kind == PONG:
            self.take_clock(*struct.unpack("<qqq", content), now_ns())
            self.pong_come = True
        elif kind == CLOSE:
            raise Refused(number)

    def take_taken(self, flags, number, content):
        _, count = struct.unpack_from("<II", content)
        if after(number, self.taken) or number == self.taken:
            self.taken = number
            self.taken_later = numbers_of(number + 1, struct.unpack_from(f"<{count}Q", content, 8))
        if flags & AGAIN:
            for request in self.not_taken():
                self.send_request(request)

    def take_have(self, number, content):
        """What has come of a request: the rest of it goes out, and what is missing again, once in a round trip."""
        first, count = struct.unpack_from("<II", content)
        request = self.requests.get(number)
        if not request:
            return
        request.have |= set(range(first)) | numbers_of(first + 1, struct.unpack_from(f"<{count}Q", content, 8))
        now = time.monotonic()
        if count and now - request.sent_s > max(0.001, self.best_trip_ns / 1e9):
            self.send_units(request, [unit for unit in range(max(request.have)) if unit not in request.have])
        self.send_on(request)

    def not_taken(self):
        return [r for n, r in sorted(self.requests.items()) if after(n, self.taken) and n not in self.taken_later]

    def deliver(self):
        """Whole replies, in the order of their numbers."""
        while (following := (self.reply_come + 1) & 0xFFFFFFFF) in self.later:
            message = self.later.pop(following)
            self.reply_come = following
            completion = message.record
            completion.number = following
            request = next(r for r in self.requests.values() if RECORD.unpack(r.record)[6] == completion.request_id)
            if completion.flags & FINAL:
                request.completion, request.output = completion, bytes(message.payload)
                del self.requests[request.number]
            else:
                request.stream.append(completion)
                self.credits += 1

    def keep_time(self):
        """The client's timers: requests that were not taken go again, and a daemon that is silent is asked."""
        now = time.monotonic()
        patience = 1 if self.link.datagram else 10  # a stream loses nothing on the way
        for request in self.not_taken():
            if now - request.sent_s > self.resend_s * patience:
                self.sent_again += 1
                self.send_request(request)
        if self.requests and now - max(self.last_heard_s, self.last_probe_s) > self.probe_s * patience:
            self.last_probe_s = now
            self.probes += 1
            self.send_ack(PROBE)

    # ---- what callers want ----

    def wait(self, *requests, timeout_s=30):
        end = time.monotonic() + timeout_s
        while any(r.completion is None for r in requests):
            if time.monotonic() > end:
                raise Lost("no completion in time")
            self.pump()
        return requests[0]

    def call(self, op, payload=b"", capacity=0, **fields):
        return self.wait(self.submit(op, payload, capacity, **fields))

    def open_model(self, model=0, max_tokens=0, seed=0, temperature=0.0):
        params = struct.pack("<IIIIBB6xIIIIIffI", 88, 1, model, max_tokens, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        return self.call(OPEN, params + struct.pack("<QffffII", seed, temperature, 1, 0, 1, 0, 0))

    def step(self, session, tokens, output=3, **fields):
        """Appends tokens; by default the arg max of the last row comes back."""
        return self.submit(STEP, struct.pack(f"<{len(tokens)}I", *tokens), 4, session=session, argument=len(tokens), args=output, **fields)

    def generate(self, session, tokens, max_tokens, temperature=0.0, seed=0, **fields):
        params = struct.pack("<IIIIqq", 64, max_tokens, 0, 0, 0, 0) + struct.pack("<QffffII", seed, temperature, 1, 0, 1, 0, 0)
        return self.submit(GENERATE, params + struct.pack(f"<{len(tokens)}I", *tokens), 4 * max_tokens, session=session,
                           argument=len(tokens), **fields)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--key", help="a file of 64 hexadecimal digits")
    parser.add_argument("--cipher", choices=["aesgcm", "chacha"], default="aesgcm")
    parser.add_argument("address")
    options = parser.parse_args()
    key = bytes.fromhex(open(options.key).read().strip()) if options.key else None
    client = Client(options.address, key, {"aesgcm": 1, "chacha": 2}[options.cipher] if key else None)
    info = client.call(DESCRIBE, capacity=256)
    _, version, boot_id, _, models, devices, sessions, sessions_max = struct.unpack_from("<IIQqIIII", info.output)
    while not client.pong_come:
        client.pump()
    print(f"version {version}, boot {boot_id:016x}, {models} models, {devices} devices, {sessions} of {sessions_max} sessions, "
          f"isa {info.output[72:88].rstrip(bytes(1)).decode()}, way there and back {client.best_trip_ns / 1000:.0f} us, "
          f"its clock {client.clock_offset_ns:+d} ns")
    client.close()


if __name__ == "__main__":
    sys.exit(main())
