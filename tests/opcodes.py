"""Pickles put together opcode by opcode, as no pickler would write them. Protocol 2 unless said otherwise."""

import pickle
import struct


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def blob(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def name(full: str) -> bytes:
    module, _, attribute = full.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def call(full: str, *arguments: bytes) -> bytes:
    return called(name(full), *arguments)


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def pairs(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def pickled(*body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + b"".join(body) + b"."


def persistent(state: bytes, class_name: bytes = text("G"), kind: str = "class") -> bytes:
    meta = pairs(type=text(kind), version=number(6), module_src=text("x"), class_name=class_name, state=state)
    return call("torch_utils.persistence._reconstruct_persistent_obj", meta)


EMPTY_HOOKS = call("collections.OrderedDict")


def storage(numel: int = 4, dtype: str = "FloatStorage", claim: int | None = None, key: str = "0") -> bytes:
    """A storage as it lies in NVIDIA's pickles: a torch file of the older format."""
    identifier = b"(" + text("storage") + name(f"torch.{dtype}") + text(key) + text("cpu")
    identifier += number(numel if claim is None else claim) + b"NtQ"
    weights = struct.pack("<q", numel) + bytes(4 * numel)
    return legacy(identifier, pickled(b"](" + text(key) + b"e"), weights)


def legacy(value: bytes, keys: bytes = b"\x80\x02].", weights: bytes = b"", little: bytes = b"\x88") -> bytes:
    header = pickled(number(0x1950A86A20F9469CFC6C)) + pickled(number(1001)) + pickled(pairs(little_endian=little))
    return header + pickled(value) + keys + weights


def tensor(
    held: bytes, offset: bytes = number(0), sizes: bytes = numbers(4), strides: bytes = numbers(1), *more: bytes
) -> bytes:
    loaded = call("torch.storage._load_from_bytes", blob(held)) if held[:1] == b"\x80" else held
    return call("torch._utils._rebuild_tensor_v2", loaded, offset, sizes, strides, b"\x89", *(more or (EMPTY_HOOKS,)))


def array(dtype: bytes, state: bytes) -> bytes:
    made = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), numbers(0), blob(b"b"))
    return made + b"(" + number(1) + numbers(2) + dtype + b"\x89" + state + b"tb"
