"""The records of a zip archive as ``torch.save`` writes it; anything else about a zip archive is refused.

Python's and torch's zip readers must see the same records, so only what both read alike passes: records are stored, not
compressed; every name is there once; local headers say what the directory says; nothing lies before or behind.
"""

import encodings.cp437  # noqa: F401 - zipfile would import it for a name without its UTF-8 flag; no file shall cause imports
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from ganaug.errors import CheckpointError

# Records of one file. A training file of the largest encoder in the field has about six thousand.
MAX_RECORDS = 100_000
# The pickle beside the weights: about 200 bytes a tensor.
MAX_PICKLE_BYTES = 64 << 20

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL = struct.Struct("<4s5H3L2H")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Record:
    """One file inside an archive.

    Attributes:
        name: Without the archive's folder: ``"data.pkl"``, ``"data/0"``.
        start: Where its bytes begin in the file.
        size: How many.
        crc: Their crc32 as written in the archive; 0 if the writer was told not to compute it.
    """

    name: str
    start: int
    size: int
    crc: int

    @property
    def is_storage(self) -> bool:
        """Whether these are the numbers of tensors."""
        return self.name.startswith("data/")


def records_of(file: BinaryIO, size: int) -> dict[str, Record]:
    """Records by name, all checked against the file, their checksums too.

    Args:
        file: Open at any position.
        size: Its length in bytes.

    Raises:
        CheckpointError: The reason, without the file's name.
    """
    directory, count = _check_end(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise CheckpointError(f"damaged: not a readable zip archive ({error})") from error
    if len(infos) != count:
        raise CheckpointError("damaged: its zip directory has another number of records than it says")
    folders = {info.filename.partition("/")[0] for info in infos}
    names = {info.filename.partition("/")[2].lower() for info in infos}
    if names & {"constants.pkl"} or any(name.startswith("code/") for name in names):
        raise CheckpointError("a TorchScript archive, which holds code; save the state dict of the model instead")
    if "data.pkl" not in names:
        raise CheckpointError("a zip archive without data.pkl, so not a file of torch.save")
    if len(folders) != 1 or len(names) != len(infos) or "" in names:
        raise CheckpointError("its zip directory has a name twice, or names in several folders")
    records: dict[str, Record] = {}
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        record = _record(file, info, size)
        if info.header_offset < end or record.start + record.size > directory:
            raise CheckpointError(f"damaged: zip record {record.name!a} overlaps another")
        if end == 0 and info.header_offset != 0:
            raise CheckpointError("damaged: it does not begin with its first zip record")
        end = record.start + record.size
        records[record.name] = record
    if records["data.pkl"].size > MAX_PICKLE_BYTES:
        raise CheckpointError(f"its data.pkl has more than {MAX_PICKLE_BYTES} bytes")
    byteorder = records.get("byteorder")
    if byteorder is not None and _read(file, byteorder) != b"little":
        raise CheckpointError("written on a big-endian machine, or its byte order is damaged")
    for record in records.values():
        _check_crc(file, record)
    return records


def _check_end(file: BinaryIO, size: int) -> tuple[int, int]:
    """Where the zip directory begins and how many records it has; it must end where the file ends."""
    tail_size = min(size, _END.size + _END64_LOCATOR.size + _END64.size)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    if len(tail) < _END.size:
        raise CheckpointError("cut short: a zip archive without its end")
    signature, disk, first_disk, here, count, length, offset, comment = _END.unpack(tail[-_END.size :])
    if signature != b"PK\5\6" or comment or disk or first_disk or here != count:
        raise CheckpointError("cut short or damaged: it does not end as a zip archive of torch.save")
    end = size - _END.size
    locator = tail[-_END.size - _END64_LOCATOR.size : -_END.size]
    if locator[:4] == b"PK\6\7":
        end -= _END64_LOCATOR.size + _END64.size
        _, disk64, where, disks = _END64_LOCATOR.unpack(locator)
        if where != end or disk64 or disks != 1:
            raise CheckpointError("damaged: the end of its zip directory is elsewhere than it says")
        signature, _, _, _, disk, first_disk, here64, count64, length64, offset64 = _END64.unpack(tail[: _END64.size])
        short = ((count, count64, 0xFFFF), (length, length64, 0xFFFFFFFF), (offset, offset64, 0xFFFFFFFF))
        if signature != b"PK\6\6" or disk or first_disk or here64 != count64:
            raise CheckpointError("damaged: the end of its zip directory")
        if any(value not in (value64, absent) for value, value64, absent in short):
            raise CheckpointError("damaged: its zip directory has two sizes")
        count, length, offset = count64, length64, offset64
    if offset + length != end:
        raise CheckpointError("damaged: its zip directory does not end where the file ends")
    if count > MAX_RECORDS or length > MAX_RECORDS * 512:
        raise CheckpointError(f"its zip directory has more than {MAX_RECORDS} records")
    return offset, count


def _record(file: BinaryIO, info: zipfile.ZipInfo, size: int) -> Record:
    name = info.filename.partition("/")[2]
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise CheckpointError(f"zip record {name[:80]!a} is compressed or encrypted; torch.save does neither")
    if not name.isascii() or "\\" in name or "\0" in info.orig_filename or ".." in name.split("/"):
        raise CheckpointError(f"zip record with the name {info.filename[:80]!a}")
    if not 0 <= info.header_offset <= size - _LOCAL.size:
        raise CheckpointError(f"damaged: zip record {name[:80]!a} lies outside of the file")
    file.seek(info.header_offset)
    fields = _LOCAL.unpack(file.read(_LOCAL.size))
    written = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
    if fields[0] != b"PK\3\4" or fields[3] != 0 or fields[2] & 1 or file.read(fields[9]) != written:
        raise CheckpointError(f"damaged: the header of zip record {name[:80]!a} is not what the directory says")
    start = info.header_offset + _LOCAL.size + fields[9] + fields[10]
    return Record(name, start, info.file_size, info.CRC)


def _read(file: BinaryIO, record: Record) -> bytes:
    file.seek(record.start)
    return file.read(min(record.size, 64))


def _check_crc(file: BinaryIO, record: Record) -> None:
    if record.crc == 0:
        return  # torch.serialization.set_crc32_options(False)
    file.seek(record.start)
    crc, left = 0, record.size
    while left:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise CheckpointError("cut short: the file ends early")
        crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    if crc != record.crc:
        raise CheckpointError(f"damaged: the checksum of zip record {record.name[:80]!a} is wrong; get it again")
