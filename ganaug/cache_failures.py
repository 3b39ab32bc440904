"""What a latent cache notes of samples that have no latents: the entries of its third database.

    crc32 (4) | key length (4) | key | reason | where it is known: zero byte, stamp

``key`` is empty unless it does not fit LMDB's limit, as in records (:mod:`ganaug.cache_format`).
"""

import struct
from typing import NamedTuple

from ganaug.cache_keys import CRC, checksum, key_inside, storage_key, true_key

_PREFIX = struct.Struct("<II")  # crc32, key length


class Failure(NamedTuple):
    """Why a sample has no latents.

    Attributes:
        reason: In words.
        stamp: sha256 (64 hex digits) of all that led to it, as :func:`ganaug.faces.photos.stamp_of` takes it: as long
            as that is the same, another try would end the same. Empty where it is not known.
    """

    reason: str
    stamp: str = ""


def encode_failure(key: str, failure: str | Failure) -> bytes:
    """The bytes of a note that a sample has no latents."""
    inside = key_inside(key, storage_key(key))
    # A stamp stands behind a zero byte, which no reason has: so entries of older caches, without stamps, read alike.
    text = failure if isinstance(failure, str) else failure.reason + "\0" * bool(failure.stamp) + failure.stamp
    rest = CRC.pack(len(inside)) + inside + text.encode(errors="surrogatepass")
    return CRC.pack(checksum(key, rest)) + rest


def decode_failure(storage: bytes, value: bytes) -> tuple[str, Failure] | None:
    """Key and failure; a reason that cannot be read any more is told as such. None if the key is unreadable."""
    key = true_key(storage, lambda: value, _PREFIX.size)
    if key is None:
        return None
    if len(value) < _PREFIX.size or CRC.unpack_from(value)[0] != checksum(key, value[CRC.size :]):
        return key, Failure("(damaged entry)")
    text = value[_PREFIX.size + _PREFIX.unpack_from(value)[1] :].decode(errors="surrogatepass")
    reason, zero, stamp = text.rpartition("\0")
    return key, Failure(reason, stamp) if zero and len(stamp) == 64 else Failure(text)
