"""Hostile zip archives, ``.npy`` arrays and other files; see ``hostile.py``."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hostile import Case
from opcodes import EMPTY_HOOKS, call, name, number, numbers, pairs, pickled, tensor, text
from published_files import torch_file


def small_file() -> bytes:
    """A genuine file of ``torch.save``."""
    return torch_file({"g_ema": {"weight": torch.arange(6.0).reshape(2, 3)}, "latent_avg": torch.ones(4)})


def rezipped(
    change: Callable[[dict[str, bytes]], dict[str, bytes] | list[tuple[str, bytes]]],
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """The genuine file with its records changed."""
    with zipfile.ZipFile(io.BytesIO(small_file())) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    changed = change(records)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for file_name, data in changed.items() if isinstance(changed, dict) else changed:
            info = zipfile.ZipInfo(file_name)
            info.compress_type = compression
            archive.writestr(info, data)
    return buffer.getvalue()


def with_records(**records: bytes) -> bytes:
    """The genuine file with records added or replaced; ``__`` stands for a slash, ``_DOT_`` for a dot."""
    named = {"archive/" + key.replace("__", "/").replace("_DOT_", "."): value for key, value in records.items()}
    return rezipped(lambda before: before | named)


def with_pickle(*body: bytes, protocol: int = 2) -> bytes:
    return with_records(data_DOT_pkl=pickled(*body, protocol=protocol))


def zip_tensor(numel: int = 6, key: str = "0", dtype: str = "FloatStorage", kind: str = "storage") -> bytes:
    """A tensor of the genuine file, whose storage 0 has six floats."""
    identifier = b"(" + text(kind) + name(f"torch.{dtype}") + text(key) + text("cpu") + number(numel) + b"tQ"
    return tensor(identifier, sizes=numbers(6))


def patched(data: bytes, old: bytes, new: bytes, last: bool = False) -> bytes:
    at = data.rindex(old) if last else data.index(old)
    return data[:at] + new + data[at + len(old) :]


def directory_patched(index: int, offset: int, new: bytes) -> bytes:
    """The genuine file with bytes of one entry of its zip directory replaced."""
    data = small_file()
    at = -1
    for _ in range(index + 1):
        at = data.index(b"PK\1\2", at + 1)
    return data[: at + offset] + new + data[at + offset + len(new) :]


def end_patched(offset: int, new: bytes) -> bytes:
    """The genuine file with bytes of the last 22 replaced."""
    data = small_file()
    at = len(data) - 22 + offset
    return data[:at] + new + data[at + len(new) :]


def npy(header: str, data: bytes = b"", length: int | None = None, version: bytes = b"\1\0") -> bytes:
    padded = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(padded) if length is None else length) + padded + data


def npy_of(shape: str, descr: str = "'<f8'", data: bytes = bytes(8)) -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}", data)


UNKNOWN = "which weights do not need; refused, nothing was run"


def archives(folder: Path) -> dict[str, Case]:
    """Name -> case."""
    found = {key: Case(data, reason, suffix=".pt") for key, (data, reason) in (_tricks() | _contents(folder)).items()}
    found |= {f"npy_{key}": Case(data, reason, suffix=".npy") for key, (data, reason) in _npy().items()}
    found |= {f"other_{key}": Case(data, reason, suffix=".pt") for key, (data, reason) in _others().items()}
    return found


def _tricks() -> dict[str, tuple[bytes, str | None]]:
    """The archive itself."""
    genuine = small_file()
    zeros = bytes(32 << 20)
    two = {"archive/data.pkl": pickled(call("os.system", text("true")))}
    overlap = struct.pack("<L", genuine.index(b"PK\3\4", 1))
    plain = rezipped(lambda records: records)
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return {
        "zip_deflated": (rezipped(lambda records: records, zipfile.ZIP_DEFLATED), "compressed or encrypted"),
        "zip_bzip2": (rezipped(lambda records: records, zipfile.ZIP_BZIP2), "compressed or encrypted"),
        "zip_bomb": (
            rezipped(lambda records: records | {"archive/data/0": zeros}, zipfile.ZIP_DEFLATED),
            "compressed or encrypted",
        ),
        "zip_duplicate_pickle": (rezipped(lambda records: [*records.items(), *two.items()]), "a name twice"),
        "zip_duplicate_first": (rezipped(lambda records: [*two.items(), *records.items()]), "a name twice"),
        "zip_other_case": (rezipped(lambda records: {"archive/DATA.PKL": b"x"} | records), "a name twice"),
        "zip_two_folders": (rezipped(lambda records: {"other/data.pkl": b"x"} | records), "a name twice"),
        "zip_no_folder": (rezipped(lambda records: {"data.pkl": records["archive/data.pkl"]}), "data.pkl"),
        "zip_traversal": (rezipped(lambda records: records | {"archive/../../x": b"x"}), "with the name"),
        "zip_absolute": (rezipped(lambda records: records | {"/etc/x": b"x"}), "names in several folders"),
        "zip_backslash": (rezipped(lambda records: records | {"archive/..\\x": b"x"}), "with the name"),
        "zip_not_ascii": (rezipped(lambda records: records | {"archive/d\u0430ta": b"x"}), "with the name"),
        "zip_folder_entry": (rezipped(lambda records: records | {"archive/": b""}), "a name twice"),
        "zip_overlap": (directory_patched(2, 42, overlap), "not what the directory says|overlaps"),
        "zip_same_record_twice": (directory_patched(1, 42, bytes(4)), "not what the directory says|overlaps"),
        "zip_offset_outside": (directory_patched(0, 42, b"\xf0\xff\xff\x7f"), "outside of the file|damaged"),
        "zip_wrong_crc": (directory_patched(4, 16, b"\1\2\3\4"), "the checksum of zip record 'data/0' is wrong"),
        "zip_flipped_weight": (
            patched(genuine, b"\0\0\x80\x3f", b"\0\0\x80\x3e"),
            "checksum of zip record",
        ),
        "zip_flipped_pickle": (patched(genuine, b"latent_avg", b"latent_abg"), "checksum of zip record 'data.pkl'"),
        "zip_encrypted": (directory_patched(0, 8, b"\1\0"), "compressed or encrypted"),
        "zip_local_method": (
            patched(genuine, b"PK\3\4\0\0\x08\x08\0\0", b"PK\3\4\0\0\x08\x08\x08\0"),
            "not what the dir",
        ),
        "zip_local_name": (patched(genuine, b"archive/data/0", b"archive/data/1"), "not what the directory says"),
        "zip_directory_name": (patched(genuine, b"archive/data/0", b"archive/data/9", last=True), "not what the dir"),
        "zip_size_lie": (directory_patched(4, 24, b"\xff\xff\0\0"), "compressed or encrypted|overlaps"),
        "zip_sizes_lie": (directory_patched(4, 20, b"\0\0\0\x40\0\0\0\x40"), "overlaps another"),
        "zip_size_zip64": (directory_patched(4, 20, b"\xff" * 8), "damaged"),
        "zip_count_lie": (end_patched(10, b"\xff\0"), "does not end as a zip archive|two sizes"),
        "zip_counts_lie": (end_patched(8, b"\x63\0\x63\0"), "two sizes"),
        "zip_directory_size_lie": (end_patched(12, b"\1\0\0\0"), "two sizes"),
        "zip_directory_offset_lie": (end_patched(16, b"\1\0\0\0"), "two sizes"),
        "zip64_elsewhere": (patched(genuine, b"PK\6\7\0\0\0\0", b"PK\6\7\1\0\0\0"), "elsewhere than it says"),
        "zip64_missing": (patched(genuine, b"PK\6\6", b"PK\6\0"), "the end of its zip directory"),
        "zip64_counts_lie": (patched(genuine, struct.pack("<QQ", 8, 8), struct.pack("<QQ", 9, 9)), "two sizes"),
        "zip_plain_counts_lie": (patched(plain, b"\x08\0\x08\0", b"\7\0\7\0", last=True), "number of records|damaged"),
        "zip_prefix": (b"#!/bin/sh\ntouch x\nexit\n" + genuine, "begins with"),
        "zip_prefix_zip": (plain[: plain.index(b"PK\1\2")] + plain, "does not end where the file ends|damaged"),
        "zip_suffix": (genuine + b"<?php system('x');", "does not end as a zip archive"),
        "zip_comment": (genuine[:-2] + b"\5\0hello", "does not end as a zip archive"),
        "zip_cut": (genuine[:-1], "does not end as a zip archive"),
        "zip_cut_in_half": (genuine[: len(genuine) // 2], "does not end as a zip archive"),
        "zip_start_only": (b"PK\3\4", "cut short"),
        "zip_empty": (b"PK\5\6" + bytes(18), "begins with"),
        "zip_junk": (b"PK\3\4" + bytes(range(256)) * 4, "does not end as a zip archive"),
        "zip_npz": (buffer.getvalue(), "without data.pkl"),
        "zip_many_records": (
            rezipped(lambda records: {f"archive/data/{i}": b"" for i in range(20_000)} | records),
            None,
        ),
    }


def _contents(folder: Path) -> dict[str, tuple[bytes, str | None]]:
    """What the records hold."""
    system = call("os.system", text(f"touch {folder / 'zip_system'}.ran"))
    namespace = name("argparse.Namespace") + b")\x81"
    script = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), script)
    return {
        "zip_system": (with_pickle(system), UNKNOWN),
        "zip_system_stacked": (with_pickle(text("os"), text("system"), b"\x93", protocol=4), UNKNOWN),
        "zip_eval": (with_pickle(call("__builtin__.eval", text("1"))), UNKNOWN),
        "zip_load_from_bytes": (with_pickle(call("torch.storage._load_from_bytes", text("x"))), UNKNOWN),
        "zip_protocol_4": (with_pickle(b"N", protocol=4), "pickle_protocol=4"),
        "zip_sparse": (with_pickle(call("torch._utils._rebuild_sparse_tensor", b"N")), UNKNOWN),
        "zip_quantised": (torch_file(torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)), UNKNOWN),
        "zip_sparse_genuine": (torch_file(torch.eye(2).to_sparse()), UNKNOWN),
        "zip_meta_genuine": (torch_file(torch.empty(2, device="meta")), UNKNOWN),
        "zip_complex_genuine": (torch_file(torch.ones(2, dtype=torch.complex64)), UNKNOWN),
        "zip_subclass": (with_pickle(call("torch._tensor._rebuild_from_type_v2", b"N")), UNKNOWN),
        "zip_namespace_slots": (with_pickle(namespace, b"N", pairs(x=b"N"), b"\x86b"), "names are not text"),
        "zip_namespace_class": (with_pickle(namespace, pairs(__class__=text("x")), b"b"), None),
        "zip_build_function": (with_pickle(name("torch._utils._rebuild_tensor_v2"), pairs(x=b"N"), b"b"), "attributes"),
        "zip_numel_lie": (with_pickle(zip_tensor(1 << 40)), "claims 4398046511104 bytes; the file holds 24"),
        "zip_numel_negative": (with_pickle(zip_tensor(-6)), "without a name or a size"),
        "zip_dtype_lie": (with_pickle(zip_tensor(dtype="DoubleStorage")), "claims 48 bytes; the file holds 24"),
        "zip_dtype_other": (with_pickle(zip_tensor(dtype="IntStorage")), None),
        "zip_key_missing": (with_pickle(zip_tensor(key="7")), "the file holds none"),
        "zip_key_traversal": (with_pickle(zip_tensor(key="../../../etc/passwd")), "the file holds none"),
        "zip_key_pickle": (with_pickle(zip_tensor(key="../data.pkl")), "the file holds none"),
        "zip_id_kind": (with_pickle(zip_tensor(kind="module")), "something else than a storage"),
        "zip_id_deep": (with_pickle(b")", b"\x85" * 50_000, b"Q"), "something else than a storage"),
        "zip_deep": (with_pickle(b")", b"\x85" * 50_000), "nest more than"),
        "zip_in_itself": (with_pickle(b"]q\0h\0a"), "holds itself"),
        "zip_hooks": (with_pickle(tensor(text("x"))), "without a storage"),
        "zip_expanded": (
            with_pickle(zip_tensor().replace(numbers(6) + numbers(1), numbers(1 << 38) + numbers(0))),
            "claim more than 4 times",
        ),
        "zip_outside": (with_pickle(zip_tensor().replace(numbers(6) + numbers(1), numbers(7) + numbers(1))), "outside"),
        "zip_two_values": (with_pickle(b"NN"), "does not end with one value"),
        "zip_empty_pickle": (with_records(data_DOT_pkl=b""), "cut short|damaged"),
        "zip_pickle_cut": (with_records(data_DOT_pkl=pickled(EMPTY_HOOKS)[:-1]), "cut short|damaged"),
        "zip_big_endian": (with_records(byteorder=b"big"), "big-endian"),
        "zip_byteorder_huge": (with_records(byteorder=b"little" * 1_000_000), "big-endian"),
        "zip_version_text": (with_records(version=b"x" * 1000), "torch.load|damaged"),
        "zip_version_future": (with_records(version=b"99999999999999999999"), "torch.load|damaged"),
        "zip_alignment_text": (with_records(_DOT_storage_alignment=b"x" * 100), "torch.load|damaged"),
        "zip_format_text": (with_records(_DOT_format_version=b"\xff" * 100), None),
        "zip_torchscript": (script.getvalue(), "TorchScript"),
        "zip_constants": (with_records(constants_DOT_pkl=b"x"), "TorchScript"),
        "zip_code": (with_records(code__x_DOT_py=b"import os"), "TorchScript"),
    }


def _npy() -> dict[str, tuple[bytes, str | None]]:
    code = "__import__('os').system('true')"
    return {
        "objects": (npy_of("(1,)", "'|O'", b"\x80\x02N."), "something else than plain numbers"),
        "records": (npy_of("(1,)", "[('a', '<f8')]"), "something else than plain numbers"),
        "text": (npy_of("(1,)", "'<U2'"), "something else than plain numbers"),
        "code_as_header": (npy(code), "something else than plain numbers"),
        "code_as_descr": (npy_of("(1,)", code), "something else than plain numbers"),
        "code_as_shape": (npy_of(code), "something else than plain numbers"),
        "deep_header": (npy("(" * 4000), "something else than plain numbers"),
        "minus_header": (npy("-" * 4000 + "1"), "something else than plain numbers"),
        "digits_header": (npy_of("(" + "1" * 3000 + "x)"), "something else than plain numbers"),
        "shape_digits": (npy_of("(" + "9" * 150 + ",)"), "integers from 0 up"),
        "shape_huge": (npy_of("(1099511627776,)"), "but with 8 bytes"),
        "shape_overflow": (npy_of("(4294967296, 4294967296)"), "a shape of"),
        "shape_negative": (npy_of("(-1,)"), "something else than plain numbers"),
        "shape_spaces": (npy_of("(1 1,)"), "damaged"),
        "shape_small": (npy_of("(1,)", data=bytes(16)), "but with 16 bytes"),
        "header_length": (npy("{}", length=65535), "something else than plain numbers"),
        "version_3": (npy("{}", version=b"\3\0"), "of version"),
        "version_cut": (b"\x93NUMPY", "of version"),
        "cut": (npy_of("(1,)", data=bytes(7)), "but with 7 bytes"),
    }


def _others() -> dict[str, tuple[bytes, str | None]]:
    return {
        "empty": (b"", "empty"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        "web_page": (b"\n<!DOCTYPE html><html>Google Drive</html>", "a web page"),
        "gzip": (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "Keras"),
        "tar": (bytes(257) + b"ustar\x0000" + bytes(500), "a tar archive"),
        "zeros": (bytes(1000), "begins with"),
        "script": (b"#!/bin/sh\nrm -rf /\n", "begins with"),
        "python": (b"import os\nos.system('true')\n", "begins with"),
        "safetensors": (struct.pack("<Q", 2) + b"{}", "safetensors"),
        "one_byte": (b"\x80", "begins with"),
    }
