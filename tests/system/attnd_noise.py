"""Noise_NNpsk0_25519 with AESGCM or ChaChaPoly and SHA256, the client's side, as docs/PROTOCOL.md has it.

Written from the document (and the Noise specification, revision 34) alone, for attnd_client.py. The ephemeral secret and
the key may be given, which is how the test vectors of the document are made.
"""
import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

AESGCM_CIPHER, CHACHA_CIPHER = 1, 2
NAMES = {AESGCM_CIPHER: b"Noise_NNpsk0_25519_AESGCM_SHA256", CHACHA_CIPHER: b"Noise_NNpsk0_25519_ChaChaPoly_SHA256"}
TAG_BYTES = 16
REKEY_SHIFT = 24  # a direction's key changes with every 2^24 packets
REKEY_NONCE = 2**64 - 1


def public_key(secret):
    return secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def hkdf(chaining_key, material, outputs):
    secret = hmac.digest(chaining_key, material, "sha256")
    parts, last = [], b""
    for i in range(outputs):
        last = hmac.digest(secret, last + bytes([i + 1]), "sha256")
        parts.append(last)
    return parts


def key_name(key):
    return hashlib.sha256(b"attnd key" + key).digest()[:16]


def seal(cipher, key, number, associated, plain):
    if cipher == AESGCM_CIPHER:
        return AESGCM(key).encrypt(bytes(4) + struct.pack(">Q", number), plain, associated)
    return ChaCha20Poly1305(key).encrypt(bytes(4) + struct.pack("<Q", number), plain, associated)


def unseal(cipher, key, number, associated, sealed):
    """Raises cryptography.exceptions.InvalidTag for what does not open."""
    if cipher == AESGCM_CIPHER:
        return AESGCM(key).decrypt(bytes(4) + struct.pack(">Q", number), sealed, associated)
    return ChaCha20Poly1305(key).decrypt(bytes(4) + struct.pack("<Q", number), sealed, associated)


def rekey(cipher, key):
    return seal(cipher, key, REKEY_NONCE, b"", bytes(32))[:32]


class Direction:
    """The keys of one direction. A packet's number says which; the one before the newest is kept for late datagrams."""

    def __init__(self, cipher, key):
        self.cipher, self.epoch, self.key, self.old = cipher, 0, key, None

    def key_of(self, number):
        """The epoch of a packet, its key and the key before it."""
        epoch, key, old = self.epoch, self.key, self.old
        if number >> REKEY_SHIFT == epoch - 1 and old:
            return epoch - 1, old, None
        if number >> REKEY_SHIFT < epoch:
            raise ValueError("a packet of a key that is gone")
        while epoch < number >> REKEY_SHIFT:
            epoch, key, old = epoch + 1, rekey(self.cipher, key), key
        return epoch, key, old

    def seal(self, number, associated, plain):
        self.epoch, self.key, self.old = self.key_of(number)
        return seal(self.cipher, self.key, number, associated, plain)

    def unseal(self, number, associated, sealed):
        epoch, key, old = self.key_of(number)
        plain = unseal(self.cipher, key, number, associated, sealed)
        if epoch > self.epoch:
            self.epoch, self.key, self.old = epoch, key, old  # only what has opened moves the keys on
        return plain


class Handshake:
    """Tokens: -> psk, e; <- e, ee. `side` client writes the first message, a daemon's reads it (for the vectors)."""

    def __init__(self, cipher, key, prologue, ephemeral=None):
        name = NAMES[cipher]
        self.cipher, self.ephemeral = cipher, ephemeral or X25519PrivateKey.generate()
        self.hash = name.ljust(32, b"\0") if len(name) <= 32 else hashlib.sha256(name).digest()
        self.chaining = self.hash
        self.mix_hash(prologue)
        self.chaining, part, self.key = hkdf(self.chaining, key, 3)  # psk: MixKeyAndHash
        self.mix_hash(part)
        self.number = 0

    def mix_hash(self, data):
        self.hash = hashlib.sha256(self.hash + data).digest()

    def mix_key(self, material):
        self.chaining, self.key = hkdf(self.chaining, material, 2)
        self.number = 0

    def mix_public(self, public):  # e, in a handshake with a pre-shared key
        self.mix_hash(public)
        self.mix_key(public)

    def seal_part(self, plain):
        sealed = seal(self.cipher, self.key, self.number, self.hash, plain)
        self.number += 1
        self.mix_hash(sealed)
        return sealed

    def unseal_part(self, sealed):
        plain = unseal(self.cipher, self.key, self.number, self.hash, sealed)
        self.number += 1
        self.mix_hash(sealed)
        return plain

    def split(self):
        """The keys of the client's packets and of the daemon's."""
        return [Direction(self.cipher, key) for key in hkdf(self.chaining, b"", 2)]

    # The client's side.

    def write_first(self, plain):
        public = public_key(self.ephemeral)
        self.mix_public(public)
        return public + self.seal_part(plain)

    def read_second(self, message):
        # On a copy: a forged answer must not spoil the state for the true one.
        saved = self.hash, self.chaining, self.key, self.number
        try:
            other = message[:32]
            self.mix_public(other)
            self.mix_key(self.ephemeral.exchange(X25519PublicKey.from_public_bytes(other)))
            return self.unseal_part(message[32:])
        except Exception:
            self.hash, self.chaining, self.key, self.number = saved
            raise

    # The daemon's, which only the vectors need.

    def read_first(self, message):
        self.other = message[:32]
        self.mix_public(self.other)
        return self.unseal_part(message[32:])

    def write_second(self, plain):
        public = public_key(self.ephemeral)
        self.mix_public(public)
        self.mix_key(self.ephemeral.exchange(X25519PublicKey.from_public_bytes(self.other)))
        return public + self.seal_part(plain)
