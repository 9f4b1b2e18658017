#!/usr/bin/env python3
"""Makes the packet scripts in tests/data/net_ip with Python's standard library alone: no byte of a frame in them comes from the stack
that they test. tests/unit/net_script.h says what the lines mean.

    make-net-ip-scripts.py tests/data/net_ip [tests/fuzz/corpus/net_ip]

With a second folder the frames of each script become an input of tests/fuzz/fuzz_net_ip.c, too, once as they are and once to be mended.
"""
import ipaddress
import os
import struct
import sys

US, PEER, OTHER, ROUTER = (bytes.fromhex("0200000000" + last) for last in ("01", "0a", "0b", "fe"))
ALL = b"\xff" * 6
US4, PEER4, OTHER4, FAR4, ROUTER4 = "192.0.2.1", "192.0.2.10", "192.0.2.11", "198.51.100.7", "192.0.2.254"
US6, PEER6, OTHER6, FAR6, ROUTER6 = "2001:db8::1", "2001:db8::10", "2001:db8::11", "2001:db8:1::7", "2001:db8::fe"
PORT, FROM = 7747, 40000
IP4, ARP, IP6 = 0x0800, 0x0806, 0x86DD


def packed(text):
    return ipaddress.ip_address(text).packed


def inet_sum(data):
    """RFC 1071, word by word."""
    total = 0
    for i in range(0, len(data), 2):
        total += data[i] << 8 | (data[i + 1] if i + 1 < len(data) else 0)
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def eth(payload, kind, dst=US, src=PEER, vlan=None, pad=True):
    tag = b"" if vlan is None else struct.pack(">HH", 0x8100, vlan)
    frame = dst + src + tag + struct.pack(">H", kind) + payload
    return frame + bytes(max(0, 60 - len(frame))) if pad else frame


def ip4(payload, proto=17, src=PEER4, dst=US4, ttl=64, frag=0, version=4, options=b"", words=None, total=None, check=None, ident=0):
    words = 5 + len(options) // 4 if words is None else words
    total = 20 + len(options) + len(payload) if total is None else total
    head = struct.pack(">BBHHHBBH4s4s", version << 4 | words, 0, total, ident, frag, ttl, proto, 0, packed(src), packed(dst)) + options
    check = inet_sum(head) if check is None else check
    return head[:10] + struct.pack(">H", check) + head[12:] + payload


def ip6(payload, proto=17, src=PEER6, dst=US6, hops=64, version=6, length=None):
    length = len(payload) if length is None else length
    return struct.pack(">IHBB", version << 28, length, proto, hops) + packed(src) + packed(dst) + payload


def pseudo(src, dst, proto, length):
    src, dst = packed(src), packed(dst)
    return src + dst + (struct.pack(">BBH", 0, proto, length) if len(src) == 4 else struct.pack(">II", length, proto))


def udp(payload, src, dst, sport=FROM, dport=PORT, length=None, check=None):
    length = 8 + len(payload) if length is None else length
    if check is None:
        data = struct.pack(">HHHH", sport, dport, length, 0) + payload
        check = inet_sum(pseudo(src, dst, 17, length) + data[:length]) or 0xFFFF
    return struct.pack(">HHHH", sport, dport, length, check) + payload


def udp4(payload, src=PEER4, dst=US4, **more):
    return ip4(udp(payload, src, dst, **more), 17, src, dst)


def udp6(payload, src=PEER6, dst=US6, **more):
    return ip6(udp(payload, src, dst, **more), 17, src, dst)


def icmp4(kind, code=0, rest=bytes(4), data=b""):
    body = struct.pack(">BBH", kind, code, 0) + rest + data
    return body[:2] + struct.pack(">H", inet_sum(body)) + body[4:]


def icmp6(kind, src, dst, code=0, rest=bytes(4), data=b""):
    body = struct.pack(">BBH", kind, code, 0) + rest + data
    return body[:2] + struct.pack(">H", inet_sum(pseudo(src, dst, 58, len(body)) + body)) + body[4:]


def arp(op, sha, spa, tha, tpa, hw=1, proto=0x0800, hlen=6, plen=4):
    return struct.pack(">HHBBH", hw, proto, hlen, plen, op) + sha + packed(spa) + tha + packed(tpa)


def group_of(target):
    return str(ipaddress.IPv6Address(packed("ff02::1:ff00:0")[:13] + packed(target)[13:]))


def group_mac(group):
    return b"\x33\x33" + packed(group)[12:]


def nd(kind, src, dst, target, flags=0, options=b"", hops=255, code=0):
    return ip6(icmp6(kind, src, dst, code, struct.pack(">B3x", flags), packed(target) + options), 58, src, dst, hops)


def option(kind, mac):
    return bytes([kind, 1]) + mac


def solicit(src, target, mac, dst=None, to=None, vlan=None, source=None):
    dst = dst or group_of(target)
    options = b"" if source is None and src == "::" else option(1, source or mac)
    return eth(nd(135, src, dst, target, 0, options), IP6, to or group_mac(dst), mac, vlan)


def advert(target, mac, dst, to, flags, src=None, vlan=None):
    return eth(nd(136, src or target, dst, target, flags, option(2, mac)), IP6, to, mac, vlan)


class Script:
    def __init__(self, about, *setup):
        self.frames = []
        self.lines = [f"# {about}", "# Made by tests/golden/make-net-ip-scripts.py.", *setup, "start"]

    def say(self, *lines):
        self.lines += lines

    def hex(self, command, data):
        text = data.hex()
        if len(text) + len(command) < 130:
            self.lines.append(f"{command} {text}")
            return
        self.lines.append(command)
        self.lines += [f"\t{text[i:i + 128]}" for i in range(0, len(text), 128)]

    def receive(self, frame, name, *then):
        self.frames.append(frame)
        self.hex("receive", frame)
        self.say(f"is {name}", *then)

    def text(self):
        return "\n".join(self.lines) + "\n"

    def records(self, op):
        """Frames, and after each 100 ms (op 2), an answer (3), or a datagram to somebody (4), by turns."""
        out = b""
        for i, frame in enumerate(self.frames):
            frame = frame[:200]
            out += struct.pack("<BBH", op, 0, len(frame)) + frame + struct.pack("<BBH", 2 + i % 3, 0, 10 + 2561 * (i % 3 // 2))
        return out


NET = (f"local {US4}/24 gateway {ROUTER4}", f"local {US6}/64 gateway {ROUTER6}", f"listen {PORT}")
ECHO = b"abcdefghijklmnopqrstuvwabcdefghi" + bytes(range(24))


def ethernet():
    s = Script("Ethernet: what is not for us, or from nobody.", *NET)
    good = udp4(b"hello")
    s.receive(b"", "eth_short", "nothing")
    s.receive(eth(good, IP4)[:13], "eth_short")
    s.receive(eth(good, IP4)[:14], "ip4_short")
    s.receive(eth(good, IP4, src=bytes.fromhex("010000000001")), "eth_source")
    s.receive(eth(good, IP4, src=bytes(6)), "eth_source")
    s.receive(eth(good, IP4, src=US), "eth_own")
    s.receive(eth(good, IP4, dst=OTHER), "eth_not_us")
    s.receive(eth(good, IP4, dst=bytes.fromhex("01005e000001")), "eth_not_us")
    s.receive(eth(good, 46), "eth_length")
    s.receive(eth(good, 0x5FF), "eth_length")
    s.receive(eth(good, 0x600), "eth_type")
    s.receive(eth(good, 0x88CC), "eth_type")
    s.receive(eth(good, IP4), "delivered", "payload " + b"hello".hex(), "listener 0")
    s.say("counter frames 13", "counter delivered_bytes 5", "nothing")
    return s


def vlan():
    s = Script("VLANs: an address belongs to one, and is answered there.", f"local {US4}/24 vlan 5", "local 198.51.100.1/24",
               "local 203.0.113.1/24 vlan 4094", "local 2001:db8:5::5/64 vlan 5", f"listen {PORT}")
    good = udp4(b"five")
    s.receive(eth(good, IP4, vlan=5), "delivered", "payload " + b"five".hex())
    s.hex("send", b"back")
    reply = ip4(udp(b"back", US4, PEER4, PORT, FROM), 17, US4, PEER4, frag=0x4000)
    s.hex("sent", eth(reply, IP4, PEER, US, 5, pad=False))
    # Priority and drop eligibility are nobody's business.
    s.receive(eth(good, IP4, vlan=0xF005), "delivered")
    s.receive(eth(good, IP4), "ip4_not_us")
    s.receive(eth(good, IP4, vlan=6), "vlan_unknown")
    s.receive(eth(good, IP4, vlan=4095), "vlan_unknown")
    s.receive(eth(good, IP4, vlan=4094), "ip4_not_us")
    untagged = udp4(b"none", "198.51.100.10", "198.51.100.1")
    s.receive(eth(untagged, IP4), "delivered")
    s.receive(eth(untagged, IP4, vlan=0), "delivered")
    s.receive(eth(untagged, IP4, vlan=0xE000), "delivered")
    s.hex("send", b"")
    s.hex("sent", eth(ip4(udp(b"", "198.51.100.1", "198.51.100.10", PORT, FROM), 17, "198.51.100.1", "198.51.100.10", frag=0x4000), IP4,
                      PEER, US, pad=False))
    s.receive(eth(untagged, IP4, vlan=5), "ip4_not_us")
    s.receive(eth(struct.pack(">HH", 5, IP4) + good, 0x8100, vlan=5), "vlan_nested")
    s.receive(eth(struct.pack(">HH", 5, IP4) + good, 0x88A8), "vlan_nested")
    s.receive(eth(good, 0x88A8, vlan=5), "vlan_nested")
    s.receive((US + PEER + struct.pack(">HH", 0x8100, 5))[:17], "eth_short")
    s.receive(eth(b"", IP4, vlan=5, pad=False), "ip4_short")
    s.receive(eth(good, 46, vlan=5), "eth_length")
    # Nets and groups are a VLAN's own.
    for vid, name in ((5, "ip4_group"), (4094, "ip4_not_us"), (0, "ip4_not_us")):
        s.receive(eth(udp4(b"all", dst="192.0.2.255"), IP4, vlan=vid), name)
    for vid, name in ((5, "nd_asked"), (4094, "ip6_group"), (None, "ip6_group")):
        s.receive(solicit("2001:db8:5::10", "2001:db8:5::5", PEER, vlan=vid), name)
    s.hex("own", eth(nd(136, "2001:db8:5::5", "2001:db8:5::10", "2001:db8:5::5", 0x60, option(2, US)), IP6, PEER, US, 5))
    # ARP stays on its VLAN, too.
    s.receive(eth(arp(1, PEER, PEER4, bytes(6), US4), ARP, ALL, vlan=5), "arp_asked")
    s.hex("own", eth(arp(2, US, US4, PEER, PEER4), ARP, PEER, US, 5))
    s.receive(eth(arp(1, PEER, PEER4, bytes(6), US4), ARP, ALL), "arp_not_us", "nothing")
    return s


def arp_in():
    s = Script("ARP: who is answered, and who is not believed.", *NET)
    ask = arp(1, PEER, PEER4, bytes(6), US4)
    s.receive(eth(ask, ARP, ALL), "arp_asked", "counter near.learned 1", "counter out.arp_answers 1")
    s.hex("own", eth(arp(2, US, US4, PEER, PEER4), ARP, PEER, US))
    s.receive(eth(ask, ARP), "arp_asked", "counter near.learned 1")
    s.hex("own", eth(arp(2, US, US4, PEER, PEER4), ARP, PEER, US))
    s.receive(eth(ask[:27], ARP, pad=False), "arp_short")
    s.receive(eth(ask, ARP, pad=False), "arp_asked")
    s.hex("own", eth(arp(2, US, US4, PEER, PEER4), ARP, PEER, US))
    for bad in (dict(hw=6), dict(proto=0x86DD), dict(hlen=8), dict(plen=16)):
        s.receive(eth(arp(1, PEER, PEER4, bytes(6), US4, **bad), ARP, ALL), "arp_malformed")
    for op in (0, 3, 8, 65535):
        s.receive(eth(arp(op, PEER, PEER4, bytes(6), US4), ARP, ALL), "arp_malformed")
    s.receive(eth(arp(1, OTHER, PEER4, bytes(6), US4), ARP, ALL), "arp_sender")
    for nobody in ("127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1"):
        s.receive(eth(arp(1, PEER, nobody, bytes(6), US4), ARP, ALL), "arp_sender")
    s.receive(eth(arp(2, PEER, "0.0.0.0", bytes(6), US4), ARP, ALL), "arp_sender")
    s.receive(eth(arp(1, PEER, US4, bytes(6), PEER4), ARP, ALL), "arp_conflict")
    s.receive(eth(arp(2, PEER, US4, US, US4), ARP), "arp_conflict")
    s.receive(eth(arp(1, PEER, PEER4, bytes(6), OTHER4), ARP, ALL), "arp_not_us", "nothing")
    # A probe is answered, and nobody is learned from it.
    s.receive(eth(arp(1, OTHER, "0.0.0.0", bytes(6), US4), ARP, ALL, OTHER), "arp_asked", "counter near.learned 1")
    s.hex("own", eth(arp(2, US, US4, OTHER, "0.0.0.0"), ARP, OTHER, US))
    # So is who is not on the link.
    s.receive(eth(arp(1, OTHER, FAR4, bytes(6), US4), ARP, ALL, OTHER), "arp_asked", "counter near.learned 1")
    s.hex("own", eth(arp(2, US, US4, OTHER, FAR4), ARP, OTHER, US))
    s.receive(eth(arp(2, OTHER, OTHER4, US, US4), ARP, US, OTHER), "arp_unasked", "counter near.learned 1")
    s.receive(eth(arp(2, OTHER, FAR4, US, US4), ARP, US, OTHER), "arp_unasked")
    s.receive(eth(arp(2, PEER, PEER4, US, US4), ARP), "arp_answered", "counter near.answered 0")
    # Gratuitous: who is not in the table is not learned; who is, moves.
    s.receive(eth(arp(1, OTHER, OTHER4, bytes(6), OTHER4), ARP, ALL, OTHER), "arp_news", "counter near.learned 1")
    s.receive(eth(arp(2, OTHER, PEER4, ALL, PEER4), ARP, ALL, OTHER), "arp_news", "counter near.moved 1")
    s.say(f"way 0 0 {PEER4} {FROM}")
    s.hex("send", b"x")
    reply = ip4(udp(b"x", US4, PEER4, PORT, FROM), 17, US4, PEER4, frag=0x4000)
    s.hex("sent", eth(reply, IP4, OTHER, US, pad=False))
    # It is used and only said to be there, so it is asked, by unicast.
    s.hex("own", eth(arp(1, US, US4, bytes(6), PEER4), ARP, OTHER, US))
    s.say("nothing", "counter out.arp_answers 5", "counter out.arp_questions 1")
    return s


def limits():
    s = Script("So many a second and no more: answers, echoes, errors, news.", *NET, "rate answers 2 3", "rate echoes 1 2",
               "rate unreachable 1 1", "rate news 1 2")
    ask = eth(arp(1, PEER, PEER4, bytes(6), US4), ARP, ALL)
    answer = eth(arp(2, US, US4, PEER, PEER4), ARP, PEER, US)
    for _ in range(5):
        s.receive(ask, "arp_asked")
    for _ in range(3):
        s.hex("own", answer)
    s.say("nothing", "counter out.answers_limited 2", "advance 499 ms")
    s.receive(ask, "arp_asked", "nothing")
    s.say("advance 1 ms")
    s.receive(ask, "arp_asked")
    s.hex("own", answer)
    s.receive(ask, "arp_asked", "nothing")
    s.say("advance 10 s")
    for _ in range(4):
        s.receive(ask, "arp_asked")
    for _ in range(3):
        s.hex("own", answer)
    s.say("nothing")
    # Solicitations are counted with them.
    s.receive(solicit(PEER6, US6, PEER), "nd_asked", "nothing", "counter out.answers_limited 6")
    ping = eth(ip4(icmp4(8, rest=b"\1\2\3\4", data=b"p"), 1), IP4)
    pong = eth(ip4(icmp4(0, rest=b"\1\2\3\4", data=b"p"), 1, US4, PEER4, frag=0x4000), IP4, PEER, US)
    for _ in range(4):
        s.receive(ping, "icmp_echo")
    s.hex("own", pong)
    s.hex("own", pong)
    s.say("nothing", "counter out.echoes 2", "counter out.echoes_limited 2")
    closed = udp4(b"?", dport=9)
    for _ in range(3):
        s.receive(eth(closed, IP4), "udp_closed")
    s.hex("own", eth(ip4(icmp4(3, 3, data=closed), 1, US4, PEER4, frag=0x4000), IP4, PEER, US))
    s.say("nothing", "counter out.unreachable 1", "counter out.unreachable_limited 2")
    news = eth(arp(1, PEER, PEER4, bytes(6), PEER4), ARP, ALL)
    s.receive(news, "arp_news")
    s.receive(advert(PEER6, PEER, "ff02::1", group_mac("ff02::1"), 0x20), "nd_news")
    s.receive(news, "arp_news_limited")
    s.receive(advert(PEER6, PEER, "ff02::1", group_mac("ff02::1"), 0x20), "nd_news_limited")
    s.say("advance 1 s")
    s.receive(news, "arp_news")
    s.receive(news, "arp_news_limited")
    return s


def ip4_in():
    s = Script("IPv4: headers that are none, and addresses that nobody has.", *NET)
    data = udp(b"data", PEER4, US4)
    s.receive(eth(ip4(data)[:19], IP4, pad=False), "ip4_short")
    s.receive(eth(ip4(data, words=15), IP4, pad=False)[:14 + 32], "ip4_short")
    for version in (0, 5, 6, 15):
        s.receive(eth(ip4(data, version=version), IP4), "ip4_version")
    for words in range(5):
        s.receive(eth(ip4(data, words=words), IP4), "ip4_header")
    s.receive(eth(ip4(data, total=19), IP4), "ip4_length")
    s.receive(eth(ip4(data, total=33), IP4, pad=False), "ip4_length")
    s.receive(eth(ip4(data, total=65535), IP4), "ip4_length")
    s.receive(eth(ip4(data, words=6, total=20), IP4), "ip4_length")
    s.receive(eth(ip4(data)[:31], IP4, pad=False), "ip4_length")
    s.receive(eth(ip4(data, total=20), IP4), "udp_short")
    right = int.from_bytes(ip4(data)[10:12], "big")
    s.receive(eth(ip4(data, check=right ^ 1), IP4), "ip4_checksum")
    s.receive(eth(ip4(data, check=0), IP4), "ip4_checksum")
    s.say("verdict good unknown")
    s.receive(eth(ip4(data, check=0), IP4), "delivered", "payload " + b"data".hex())
    s.say("verdict bad unknown")
    s.receive(eth(ip4(data), IP4), "ip4_checksum")
    s.say("verdict unknown unknown")
    for options in (b"\1" * 4, b"\x94\4\0\0", b"\x07\x27\4" + bytes(37)):
        s.receive(eth(ip4(data, options=options), IP4), "delivered", "payload " + b"data".hex())
    s.receive(eth(ip4(data, ttl=0), IP4), "ip4_ttl")
    s.receive(eth(ip4(data, ttl=1), IP4), "delivered")
    for fragment in (0x2000, 1, 0x1FFF, 0x2001):
        s.receive(eth(ip4(data, frag=fragment), IP4), "ip4_fragment")
    s.receive(eth(ip4(data, frag=0x4000), IP4), "delivered")
    s.receive(eth(ip4(data, ident=0xBEEF), IP4), "delivered")
    for source in ("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.255", "192.0.2.0", US4):
        s.receive(eth(ip4(udp(b"x", source, US4), src=source), IP4), "ip4_source")
    s.receive(eth(ip4(data, dst=OTHER4), IP4), "ip4_not_us")
    s.receive(eth(ip4(data, dst="127.0.0.1"), IP4), "ip4_not_us")
    for group in ("224.0.0.1", "239.255.255.255", "255.255.255.255", "192.0.2.255", "192.0.2.0"):
        s.receive(eth(ip4(data, dst=group), IP4), "ip4_group")
    s.receive(eth(ip4(data), IP4, ALL), "ip4_group")
    s.receive(eth(ip4(data, dst=OTHER4), IP4, ALL), "ip4_group")
    for protocol in (0, 2, 6, 58, 132, 255):
        s.receive(eth(ip4(data, proto=protocol), IP4), "ip4_protocol")
    s.say("nothing")
    return s


def ip6_in():
    s = Script("IPv6: headers that are none, extensions, and addresses that nobody has.", *NET)
    data = udp(b"data", PEER6, US6)
    s.receive(eth(ip6(data)[:39], IP6, pad=False), "ip6_short")
    s.receive(eth(ip6(data, version=4), IP6), "ip6_version")
    s.receive(eth(ip6(data, length=13), IP6, pad=False), "ip6_length")
    s.receive(eth(ip6(data, length=0), IP6), "ip6_length")
    s.receive(eth(ip6(data, length=65535), IP6), "ip6_length")
    s.receive(eth(ip6(data, length=7), IP6), "udp_short")
    s.receive(eth(ip6(data) + b"padding", IP6), "delivered", "payload " + b"data".hex())
    s.receive(eth(ip6(data, hops=0), IP6), "ip6_hop_limit")
    s.receive(eth(ip6(data, hops=1), IP6), "delivered")
    for source in ("::", "::1", "ff02::1", "::ffff:192.0.2.10", US6):
        s.receive(eth(ip6(udp(b"x", source, US6), src=source), IP6), "ip6_source")
    for other in (OTHER6, "::1", "::", f"::ffff:{US4}"):
        s.receive(eth(ip6(udp(b"x", PEER6, other), dst=other), IP6), "ip6_not_us")
    for group in ("ff02::1", "ff02::2", "ff02::16", group_of(US6), "ff0e::1"):
        s.receive(eth(ip6(udp(b"x", PEER6, group), dst=group), IP6, group_mac(group)), "ip6_group")
    s.receive(eth(ip6(data), IP6, group_mac("ff02::1")), "ip6_group")
    s.receive(eth(ip6(data), IP6, ALL), "ip6_group")
    s.receive(eth(ip6(icmp6(128, PEER6, "ff02::1"), 58, dst="ff02::1"), IP6, group_mac("ff02::1")), "ip6_group", "nothing")
    for empty in (b"\1\4\0\0\0\0", b"\0\0\0\0\0\0", b"\0\1\3\0\0\0", b"\0\0\0\0\1\0"):
        s.receive(eth(ip6(b"\x11\0" + empty + data, 0), IP6), "delivered", "payload " + b"data".hex())
    for full in (b"\x05\2\0\0\1\0", b"\1\5\0\0\0\0", b"\1\3\0\0\0\0", b"\0\0\0\0\0\1", b"\xc2\4\0\1\0\0", b"\1\xff\0\0\0\0"):
        s.receive(eth(ip6(b"\x11\0" + full + data, 0), IP6), "ip6_hop_by_hop")
    s.receive(eth(ip6(b"\x11\1\1\x0c" + bytes(12) + data, 0), IP6), "ip6_hop_by_hop")
    s.receive(eth(ip6(b"\x11\1\1\4" + bytes(12) + data, 0), IP6), "ip6_hop_by_hop")
    s.receive(eth(ip6(b"\x11\0\1\4\0\0\0", 0), IP6), "ip6_hop_by_hop")
    s.receive(eth(ip6(b"\0\0\1\4\0\0\0\0" + b"\x11\0\1\4\0\0\0\0" + data, 0), IP6), "ip6_extension")
    s.receive(eth(ip6(b"\x11\0\0\0\0\0\0\1" + data, 44), IP6), "ip6_fragment")
    s.receive(eth(ip6(b"\x2c\0\1\4\0\0\0\0" + b"\x11\0\0\0\0\0\0\1" + data, 0), IP6), "ip6_fragment")
    for extension in (43, 60, 50, 51, 135, 139, 140):
        s.receive(eth(ip6(b"\x11\0\1\4\0\0\0\0" + data, extension), IP6), "ip6_extension")
    for protocol in (1, 6, 59, 132, 255):
        s.receive(eth(ip6(data, protocol), IP6), "ip6_protocol")
    s.say("nothing")
    return s


def replies(us, peer, wrap, unwrap, kind):
    """What UDP is by either family."""
    s = Script("UDP: delivered to its listener, and answered.", *NET, "local 192.0.2.2/24", "local 2001:db8::2/64",
               "listen 53 local 2", "listen 53 local 3", "listen 54 local 2")
    for payload in (b"", b"x", b"hello", bytes(range(256)) * 4, b"\xff" * 33):
        s.receive(eth(wrap(payload, peer, us), kind), "delivered", "payload " + payload.hex(), "listener 0")
        s.hex("send", payload[::-1])
        s.hex("sent", eth(unwrap(udp(payload[::-1], us, peer, PORT, FROM)), kind, PEER, US, pad=False))
    # The device's word.
    wrong = wrap(b"hello", peer, us, check=0x1234)
    s.receive(eth(wrong, kind), "udp_checksum")
    s.say("verdict unknown good")
    s.receive(eth(wrong, kind), "delivered")
    s.say("verdict unknown bad")
    s.receive(eth(wrap(b"hello", peer, us), kind), "udp_checksum")
    none = wrap(b"hello", peer, us, check=0)
    for udp_word in ("unknown", "good", "bad"):
        s.say(f"verdict unknown {udp_word}")
        s.receive(eth(none, kind), "delivered" if kind == IP4 else "udp_no_checksum")
    s.say("verdict unknown unknown")
    # Lengths.
    s.receive(eth(wrap(b"hello", peer, us, length=7), kind), "udp_length")
    s.receive(eth(wrap(b"hello", peer, us, length=0), kind), "udp_length")
    s.receive(eth(wrap(b"hello", peer, us, length=14), kind), "udp_length")
    s.receive(eth(wrap(b"hello", peer, us, length=65535), kind), "udp_length")
    s.receive(eth(wrap(b"hello", peer, us, length=11), kind), "delivered", "payload " + b"hel".hex())
    s.receive(eth(wrap(b"hello", peer, us, length=8), kind), "delivered", "payload")
    s.receive(eth(wrap(b"hello", peer, us, sport=0), kind), "udp_source")
    # Ports and addresses.
    second = "192.0.2.2" if kind == IP4 else "2001:db8::2"
    s.receive(eth(wrap(b"dns", peer, second, dport=53), kind), "delivered", f"listener {1 if kind == IP4 else 2}")
    s.receive(eth(wrap(b"all", peer, second), kind), "delivered", "listener 0")
    s.receive(eth(wrap(b"dns", peer, us, dport=53), kind), "udp_closed")
    # A payload whose sum comes to 0 goes out with its other form.
    body = struct.pack(">HHHH", PORT, FROM, 10, 0)
    rest = inet_sum(pseudo(us, peer, 17, 10) + body)
    s.receive(eth(wrap(b"zero", peer, us), kind), "delivered")
    s.hex("send", struct.pack(">H", rest))
    frame = eth(unwrap(udp(struct.pack(">H", rest), us, peer, PORT, FROM)), kind, PEER, US, pad=False)
    assert frame[-4:-2] == b"\xff\xff"
    s.hex("sent", frame)
    # Left to the device: IPv4's is 0, UDP's is that of the pseudo-header.
    s.say("offload 3")
    s.hex("send", b"payload")
    data = udp(b"payload", us, peer, PORT, FROM, check=~inet_sum(pseudo(us, peer, 17, 15)) & 0xFFFF)
    s.hex("sent", eth(ip4(data, 17, us, peer, frag=0x4000, check=0) if kind == IP4 else unwrap(data), kind, PEER, US, pad=False))
    # What is longer than the link takes.
    most = 1472 if kind == IP4 else 1452
    s.say("offload 0")
    s.hex("send", bytes(most))
    s.hex("sent", eth(unwrap(udp(bytes(most), us, peer, PORT, FROM)), kind, PEER, US, pad=False))
    s.hex("send", bytes(most + 1))
    s.say("unsent EMSGSIZE", "counter out.too_long 1")
    return s


def udp4_in():
    return replies(US4, PEER4, udp4, lambda data: ip4(data, 17, US4, PEER4, frag=0x4000), IP4)


def udp6_in():
    return replies(US6, PEER6, udp6, lambda data: ip6(data, 17, US6, PEER6), IP6)


def icmp4_in():
    s = Script("ICMP: echoes, closed ports, and what is never answered.", *NET)

    def ping(data, kind=8, code=0, **more):
        return eth(ip4(icmp4(kind, code, b"\x12\x34\0\1", data), 1, **more), IP4)

    for data in (ECHO, b"", b"odd", bytes(1232)):
        s.receive(ping(data), "icmp_echo")
        s.hex("own", eth(ip4(icmp4(0, 0, b"\x12\x34\0\1", data), 1, US4, PEER4, frag=0x4000), IP4, PEER, US))
    s.receive(ping(bytes(1233)), "icmp_echo_long")
    s.receive(ping(ECHO, dst="192.0.2.255"), "ip4_group")
    s.receive(ping(ECHO, src="192.0.2.255"), "ip4_source")
    s.receive(ping(ECHO, code=1), "icmp_other")
    s.receive(ping(ECHO, kind=0), "icmp_other")
    s.receive(ping(ECHO, kind=13), "icmp_other")
    for kind in (3, 4, 5, 11, 12):
        s.receive(ping(ECHO, kind=kind), "icmp_error")
    s.receive(eth(ip4(icmp4(8)[:7], 1), IP4), "icmp_short")
    s.receive(eth(ip4(icmp4(8, data=ECHO)[:-1] + b"!", 1), IP4), "icmp_checksum")
    # From beyond the router: the answer goes back to it.
    s.receive(eth(ip4(icmp4(8, data=b"far"), 1, FAR4), IP4, US, ROUTER), "icmp_echo")
    s.hex("own", eth(ip4(icmp4(0, data=b"far"), 1, US4, FAR4, frag=0x4000), IP4, ROUTER, US))
    closed = ip4(udp(bytes(1000), PEER4, US4, dport=9), options=b"\1\1\1\1", ident=7)
    s.receive(eth(closed, IP4), "udp_closed")
    s.hex("own", eth(ip4(icmp4(3, 3, data=closed[:548]), 1, US4, PEER4, frag=0x4000), IP4, PEER, US))
    s.receive(eth(udp4(b"x", dport=9), IP4, ALL), "ip4_group")
    s.receive(eth(udp4(b"x", dst="192.0.2.255", dport=9), IP4, ALL), "ip4_group")
    s.receive(eth(udp4(b"x", dport=9, check=1), IP4), "udp_checksum")
    s.say("nothing")
    return s


def icmp6_in():
    s = Script("ICMPv6: echoes, closed ports, and what is never answered.", *NET)

    def ping(data, kind=128, code=0, src=PEER6, dst=US6, mac=PEER):
        return eth(ip6(icmp6(kind, src, dst, code, b"\x12\x34\0\1", data), 58, src, dst), IP6, US, mac)

    for data in (ECHO, b"", b"odd", bytes(1232)):
        s.receive(ping(data), "icmp_echo")
        s.hex("own", eth(ip6(icmp6(129, US6, PEER6, 0, b"\x12\x34\0\1", data), 58, US6, PEER6), IP6, PEER, US))
    s.receive(ping(bytes(1233)), "icmp_echo_long")
    s.receive(ping(ECHO, code=1), "icmp_other")
    s.receive(ping(ECHO, kind=129), "icmp_other")
    s.receive(ping(ECHO, kind=130), "icmp_other")
    for kind in (1, 2, 3, 4, 127):
        s.receive(ping(ECHO, kind=kind), "icmp_error")
    s.receive(eth(ip6(icmp6(128, PEER6, US6)[:7], 58), IP6), "icmp_short")
    s.receive(eth(ip6(icmp6(128, PEER6, OTHER6, data=ECHO), 58), IP6), "icmp_checksum")
    s.receive(eth(ip6(icmp4(128, data=ECHO), 58), IP6), "icmp_checksum")
    s.receive(ping(b"far", src=FAR6, mac=ROUTER), "icmp_echo")
    s.hex("own", eth(ip6(icmp6(129, US6, FAR6, 0, b"\x12\x34\0\1", b"far"), 58, US6, FAR6), IP6, ROUTER, US))
    closed = udp6(bytes(1400), dport=9)
    s.receive(eth(closed, IP6), "udp_closed")
    s.hex("own", eth(ip6(icmp6(1, US6, PEER6, 4, data=closed[:1232]), 58, US6, PEER6), IP6, PEER, US))
    short = ip6(b"\x11\0\1\4\0\0\0\0" + udp(b"y", PEER6, US6, dport=9), 0)
    s.receive(eth(short, IP6), "udp_closed")
    s.hex("own", eth(ip6(icmp6(1, US6, PEER6, 4, data=short), 58, US6, PEER6), IP6, PEER, US))
    s.say("nothing")
    return s


def nd_in():
    s = Script("Neighbour discovery: who is answered, and who is not believed.", *NET)
    mine = eth(nd(136, US6, PEER6, US6, 0x60, option(2, US)), IP6, PEER, US)
    s.receive(solicit(PEER6, US6, PEER), "nd_asked", "counter near.learned 1")
    s.hex("own", mine)
    s.receive(solicit(PEER6, US6, PEER, US6, US), "nd_asked")
    s.hex("own", mine)
    # Without an option nobody is learned.
    s.receive(eth(nd(135, OTHER6, US6, US6), IP6, US, OTHER), "nd_asked", "counter near.learned 1")
    s.hex("own", eth(nd(136, US6, OTHER6, US6, 0x60, option(2, US)), IP6, OTHER, US))
    s.receive(solicit("fe80::a", US6, PEER), "nd_asked", "counter near.learned 2")
    s.hex("own", eth(nd(136, US6, "fe80::a", US6, 0x60, option(2, US)), IP6, PEER, US))
    s.receive(solicit(FAR6, US6, PEER), "nd_asked", "counter near.learned 2")
    s.hex("own", eth(nd(136, US6, FAR6, US6, 0x60, option(2, US)), IP6, PEER, US))
    # Is the address taken? To all, for who asks has none.
    s.receive(solicit("::", US6, OTHER), "nd_probe", "counter near.learned 2")
    s.hex("own", eth(nd(136, US6, "ff02::1", US6, 0x20, option(2, US)), IP6, group_mac("ff02::1"), US))
    s.receive(solicit("::", US6, OTHER, source=OTHER), "nd_malformed")
    s.receive(solicit("::", US6, OTHER, "ff02::1"), "nd_malformed")
    s.receive(eth(ip6(icmp6(135, "::", US6, data=packed(US6)), 58, "::", US6, 255), IP6, US, OTHER), "ip6_source")
    # The group is ours, too, by its last three bytes.
    like = "2001:db8::5:0:1"
    s.receive(solicit(PEER6, like, PEER), "nd_not_us")
    s.receive(solicit(PEER6, OTHER6, PEER), "ip6_group")
    # That of an IPv4 address is not.
    s.receive(solicit(PEER6, "2001:db8::201", PEER), "ip6_group")
    s.receive(solicit(PEER6, OTHER6, PEER, US6, US), "nd_not_us")

    def bad(**changes):
        values = dict(kind=135, src=PEER6, dst=US6, target=US6, options=option(1, PEER)) | changes
        return eth(nd(**values), IP6)

    s.receive(bad(hops=254), "nd_hop_limit")
    s.receive(bad(hops=64), "nd_hop_limit")
    s.receive(bad(code=1), "nd_malformed")
    s.receive(bad(options=bytes(8)), "nd_malformed")
    s.receive(bad(options=option(1, PEER) + b"\1"), "nd_malformed")
    s.receive(bad(options=b"\1\2" + PEER), "nd_malformed")
    s.receive(bad(options=b"\x0e\1" + bytes(6) + option(1, PEER)), "nd_asked")
    s.hex("own", mine)
    s.receive(bad(options=(b"\x0e\1" + bytes(6)) * 17), "nd_malformed")
    s.receive(eth(ip6(icmp6(135, PEER6, US6, data=packed(US6)[:15]), 58, hops=255), IP6), "nd_malformed")
    for target in ("ff02::1", "::", "::1", f"::ffff:{US4}"):
        s.receive(bad(target=target), "nd_target")
    s.receive(bad(options=option(1, OTHER)), "nd_sender")
    s.receive(bad(kind=136, options=option(2, OTHER), target=PEER6), "nd_sender")
    s.receive(advert(US6, OTHER, "ff02::1", group_mac("ff02::1"), 0x20, src=OTHER6), "nd_conflict")
    s.receive(advert(PEER6, PEER, "ff02::1", group_mac("ff02::1"), 0x60), "nd_malformed")
    s.receive(advert(OTHER6, OTHER, US6, US, 0x60), "nd_unasked")
    s.receive(advert(PEER6, PEER, US6, US, 0x60), "nd_answered", "counter near.answered 0")
    s.receive(eth(nd(136, PEER6, US6, PEER6, 0x60), IP6), "nd_unasked")
    s.receive(advert(PEER6, OTHER, "ff02::1", group_mac("ff02::1"), 0x20), "nd_news", "counter near.moved 1")
    s.receive(advert(OTHER6, OTHER, "ff02::1", group_mac("ff02::1"), 0x20), "nd_news", "counter near.learned 2")
    # Without the override flag nothing is changed.
    s.receive(advert(PEER6, ROUTER, "ff02::1", group_mac("ff02::1"), 0), "nd_news", "counter near.moved 1")
    for kind in (133, 134, 137):
        s.receive(eth(ip6(icmp6(kind, "fe80::fe", "ff02::1", data=bytes(32)), 58, "fe80::fe", "ff02::1", 255), IP6, group_mac("ff02::1"),
                      ROUTER), "nd_router")
    s.say("nothing")
    return s


def unknown(us, peer, far, other, ask, answer, packet, kind, local, counter):
    """Sending to whom we have not heard of, by either family."""
    s = Script("Neighbours: asked for, found, old, lost, behind a gateway.", *NET)

    def frame(to, mac, payload=b"data"):
        return eth(packet(udp(payload, us, to, PORT, FROM), to), kind, mac, US, pad=False)

    router = ROUTER4 if kind == IP4 else ROUTER6
    data = b"data".hex()
    s.say(f"way 0 {local} {peer} {FROM}", f"send {data}", "unsent EHOSTUNREACH", "counter out.no_neighbour 1")
    s.hex("own", ask(peer, None))
    s.say("nothing", f"send {data}", "unsent EHOSTUNREACH", "nothing", "advance 1 s", f"send {data}", "unsent EHOSTUNREACH")
    s.hex("own", ask(peer, None))
    # Found.
    s.receive(answer(peer, PEER), counter, "counter near.answered 1")
    s.say(f"send {data}")
    s.hex("sent", frame(peer, PEER))
    s.say("nothing", "advance 29 s", f"send {data}")
    s.hex("sent", frame(peer, PEER))
    s.say("nothing")
    # Old: used on, and asked.
    s.say("advance 2 s", f"send {data}")
    s.hex("sent", frame(peer, PEER))
    s.hex("own", ask(peer, PEER))
    s.say(f"send {data}", "nothing")
    s.receive(answer(peer, PEER), counter, "counter near.answered 2")
    s.say(f"send {data}", "nothing", "advance 31 s")
    # Lost: three times asked, then everybody.
    for _ in range(3):
        s.say(f"send {data}")
        s.hex("sent", frame(peer, PEER))
        s.hex("own", ask(peer, PEER))
        s.say("nothing", "advance 1 s")
    s.say(f"send {data}", "unsent EHOSTUNREACH", "counter near.unanswered 1")
    s.hex("own", ask(peer, None))
    # He has moved.
    s.receive(answer(peer, OTHER), counter)
    s.say(f"send {data}")
    s.hex("sent", frame(peer, OTHER))
    # Behind the gateway.
    s.say(f"way 0 {local} {far} {FROM}", f"send {data}", "unsent EHOSTUNREACH")
    s.hex("own", ask(router, None))
    s.receive(answer(router, ROUTER), counter)
    s.say(f"send {data}")
    s.hex("sent", frame(far, ROUTER))
    # Nobody there: three times a second apart, then every ten.
    s.say(f"way 0 {local} {other} {FROM}")
    for _ in range(3):
        s.say(f"send {data}", "unsent EHOSTUNREACH")
        s.hex("own", ask(other, None))
        s.say("advance 1 s")
    s.say(f"send {data}", "unsent EHOSTUNREACH", "nothing", "advance 8 s", f"send {data}", "nothing", "advance 1 s", f"send {data}")
    s.hex("own", ask(other, None))
    s.say("nothing", "counter near.unanswered 2", "counter near.asked 3")
    return s


def neighbours4():
    return unknown(
        US4, PEER4, FAR4, OTHER4,
        lambda whom, mac: eth(arp(1, US, US4, bytes(6), whom), ARP, mac or ALL, US),
        lambda who, mac: eth(arp(2, mac, who, US, US4), ARP, US, mac),
        lambda data, to: ip4(data, 17, US4, to, frag=0x4000), IP4, 0, "arp_answered")


def neighbours6():
    def ask(whom, mac):
        dst = whom if mac else group_of(whom)
        return eth(nd(135, US6, dst, whom, 0, option(1, US)), IP6, mac or group_mac(dst), US)

    return unknown(
        US6, PEER6, FAR6, OTHER6, ask,
        lambda who, mac: advert(who, mac, US6, US, 0x60),
        lambda data, to: ip6(data, 17, US6, to), IP6, 1, "nd_answered")


def static():
    s = Script("Static neighbours stay as they are, whoever says what.", *NET, f"static {PEER4} 02:00:00:00:00:0a",
               f"static {PEER6} 02:00:00:00:00:0a", "neighbours 16", "rate questions 2 2")
    s.receive(eth(arp(1, OTHER, PEER4, bytes(6), US4), ARP, ALL, OTHER), "arp_asked", "counter near.static_kept 1")
    s.hex("own", eth(arp(2, US, US4, OTHER, PEER4), ARP, OTHER, US))
    s.receive(eth(arp(2, OTHER, PEER4, US, US4), ARP, US, OTHER), "arp_answered", "counter near.static_kept 2")
    s.receive(eth(arp(1, OTHER, PEER4, bytes(6), PEER4), ARP, ALL, OTHER), "arp_news", "counter near.static_kept 3")
    s.receive(advert(PEER6, OTHER, US6, US, 0x60), "nd_answered", "counter near.static_kept 4")
    s.receive(advert(PEER6, PEER, US6, US, 0x60), "nd_answered", "counter near.static_kept 4")
    s.say(f"way 0 0 {PEER4} {FROM}", "advance 10000 s")
    s.hex("send", b"x")
    s.hex("sent", eth(ip4(udp(b"x", US4, PEER4, PORT, FROM), 17, US4, PEER4, frag=0x4000), IP4, PEER, US, pad=False))
    s.say(f"way 0 1 {PEER6} {FROM}")
    s.hex("send", b"x")
    s.hex("sent", eth(ip6(udp(b"x", US6, PEER6, PORT, FROM), 17, US6, PEER6), IP6, PEER, US, pad=False))
    s.say("nothing")
    # All fourteen other places are asked for; then there is no room, and too many questions were asked anyway.
    for i in range(20, 35):
        s.say(f"way 0 0 192.0.2.{i} {FROM}", "send 00", "unsent EHOSTUNREACH")
    for i in (20, 21):
        s.hex("own", eth(arp(1, US, US4, bytes(6), f"192.0.2.{i}"), ARP, ALL, US))
    s.say("nothing", "counter near.asked 14", "counter near.no_room 1", "counter out.questions_limited 12",
          "counter out.no_neighbour 15")
    # A stranger does not push them out either, until they are of no use.
    s.receive(eth(arp(1, OTHER, "192.0.2.99", bytes(6), US4), ARP, ALL, OTHER), "arp_asked", "counter near.learned 0",
              "counter near.no_room 2")
    s.say("advance 10 s")
    s.receive(eth(arp(1, OTHER, "192.0.2.99", bytes(6), US4), ARP, ALL, OTHER), "arp_asked", "counter near.learned 1",
              "counter near.pushed_out 1")
    s.say("counter near.static_kept 4")
    return s


def record(op, number=0, data=b""):
    return struct.pack("<BBH", op, 0, len(data) or number) + data


def frame(data):
    return record(0, 0, data)


def passing(hundredths):
    return record(2, hundredths)


def talk():
    """For the fuzzer: neighbours found, confirmed, moved, lost, by both families."""
    out = b""
    ask4, ask6 = record(4, 0x0A01), record(4, 0x1000)
    for mac, other in ((PEER, OTHER), (OTHER, PEER)):
        out += ask4 + frame(eth(arp(2, mac, PEER4, US, US4), ARP, US, mac)) + ask4 + passing(3100) + ask4
        out += frame(eth(arp(2, other, PEER4, US, US4), ARP, US, other)) + passing(3100) + (ask4 + passing(110)) * 5
        out += ask6 + frame(advert(PEER6, mac, US6, US, 0x60)) + ask6 + passing(3100) + ask6 + frame(advert(PEER6, other, US6, US, 0x40))
        out += ask6 + frame(advert(PEER6, mac, US6, US, 0x40)) + passing(3100) + (ask6 + passing(110)) * 5
    out += record(4, 0x0C01) + frame(eth(arp(2, OTHER, "192.0.2.12", US, US4), ARP, US, OTHER)) + record(4, 0x0C01)
    return out + b"".join(record(4, number << 8 | 1) for number in range(1, 40))


def flood():
    """For the fuzzer: more than there is room and time for."""
    out = b""
    for i in range(13, 90):
        asking = eth(arp(1, OTHER, f"192.0.2.{i}", bytes(6), US4), ARP, ALL, OTHER)
        out += struct.pack("<BBH", 0, 0x87, len(asking)) + asking
        out += passing(61000) if i == 60 else b""
    for _ in range(12):
        out += frame(eth(ip4(icmp4(8), 1), IP4)) + frame(udp_closed()) + frame(eth(arp(1, PEER, PEER4, bytes(6), PEER4), ARP, ALL))
        out += frame(solicit(PEER6, US6, PEER)) + frame(advert(PEER6, PEER, "ff02::1", group_mac("ff02::1"), 0x20))
    return out


def udp_closed():
    return eth(udp6(b"?", dport=9), IP6)


def long():
    """For the fuzzer: as long as it gets."""
    return b"".join(frame(f) for f in (
        eth(ip4(icmp4(8, data=bytes(1232)), 1), IP4), eth(ip4(icmp4(8, data=bytes(1233)), 1), IP4), eth(udp4(bytes(1472)), IP4),
        eth(udp6(bytes(1452)), IP6), eth(udp6(bytes(1452), dport=9), IP6), eth(udp4(bytes(1472), dport=9), IP4))) + record(3, 1473)


SCRIPTS = dict(ethernet=ethernet, vlan=vlan, arp=arp_in, limits=limits, ip4=ip4_in, ip6=ip6_in, udp4=udp4_in, udp6=udp6_in, icmp4=icmp4_in,
               icmp6=icmp6_in, nd=nd_in, neighbours4=neighbours4, neighbours6=neighbours6, static=static)


def main():
    for name, make in SCRIPTS.items():
        script = make()
        with open(os.path.join(sys.argv[1], name + ".script"), "w") as file:
            file.write(script.text())
        for op, kind in enumerate(("raw", "mended") if len(sys.argv) > 2 else ()):
            with open(os.path.join(sys.argv[2], f"{name}-{kind}"), "wb") as file:
                file.write(script.records(op))
    for make in (talk, flood, long) if len(sys.argv) > 2 else ():
        with open(os.path.join(sys.argv[2], make.__name__), "wb") as file:
            file.write(make())


main()
