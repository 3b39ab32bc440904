"""What an entry of a latent cache is called, and how damage to it shows."""

import struct
import zlib
from collections.abc import Callable
from hashlib import sha256

CRC = struct.Struct("<I")
_MAX_KEY_BYTES = 500  # LMDB's limit is 511

Bytes = bytes | memoryview


def storage_key(key: str) -> bytes:
    """The key under which LMDB has a sample: its text, or a zero byte and a hash where LMDB could not take it."""
    name = key.encode(errors="surrogatepass")  # any Python string, so also file names that are not valid UTF-8
    if 0 < len(name) <= _MAX_KEY_BYTES and name[0]:
        return name
    return b"\0" + sha256(name).digest()


def key_inside(key: str, storage: bytes) -> bytes:
    """What an entry holds of its key: all of it if it is stored under a hash, else nothing."""
    return b"" if storage[0] else key.encode(errors="surrogatepass")


def true_key(storage: bytes, value: Callable[[], Bytes], key_offset: int) -> str | None:
    """The sample's key of a stored entry, or None if unreadable; ``value()`` gives the entry's bytes where needed."""
    try:
        if storage[0]:
            return storage.decode(errors="surrogatepass")
        data = value()
        name = bytes(data[key_offset : key_offset + CRC.unpack_from(data, CRC.size)[0]])
        return name.decode(errors="surrogatepass") if b"\0" + sha256(name).digest() == storage else None
    except (UnicodeDecodeError, struct.error):
        return None


def checksum(key: str, rest: Bytes) -> int:
    """crc32 over a sample's key and all bytes of its entry after the checksum."""
    return zlib.crc32(rest, zlib.crc32(key.encode(errors="surrogatepass")))
