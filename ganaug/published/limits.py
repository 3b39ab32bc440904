"""What reading one file may cost, in opcodes, calls and memory, and a file that never reads past its end."""

from dataclasses import dataclass, field
from typing import BinaryIO

from ganaug.errors import CheckpointError

# Opcodes that a file may have, nested storages included. A training file with optimizer states of the largest encoder
# in the field (e4e, 1,200 trained tensors) has about 150 thousand.
MAX_OPCODES = 800_000
# Names looked up and calls of builders: two to five a tensor.
MAX_CALLS = 50_000
# A name, or one line of text in a pickle.
MAX_LINE = 512
# Every byte of a file may stand for this many bytes in memory; plus a constant for small files.
MEMORY_PER_FILE_BYTE = 4
SMALL_FILE_BYTES = 1 << 20


class Source:
    """A binary file that never reads past its end, however large a count the file claims.

    Args:
        file: Seekable binary file, at its beginning.
        size: Its length in bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size, self._position = file, size, 0

    @property
    def remaining(self) -> int:
        """Bytes behind the position."""
        return self.size - self._position

    def tell(self) -> int:
        """Position in bytes."""
        return self._position

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes.

        Raises:
            CheckpointError: If there are fewer.
        """
        if not 0 <= count <= self.remaining:
            raise CheckpointError(f"cut short or damaged: {count} bytes are claimed where {self.remaining} are left")
        data = self._file.read(count)
        if len(data) != count:
            raise CheckpointError("cut short: the file ends early")
        self._position += count
        return data

    def readline(self) -> bytes:
        """Up to and with the next line feed, at most ``MAX_LINE`` bytes."""
        line = self._file.readline(MAX_LINE)
        self._position += len(line)
        if not line.endswith(b"\n"):
            raise CheckpointError(f"damaged: a name of more than {MAX_LINE} bytes, or one without an end")
        return line

    def skip(self, count: int) -> None:
        """Steps over ``count`` bytes without reading them."""
        if not 0 <= count <= self.remaining:
            raise CheckpointError(f"cut short or damaged: {count} bytes are claimed where {self.remaining} are left")
        self._position += count
        self._file.seek(self._position)


@dataclass
class Budget:
    """What reading one file may cost; shared by all pickles inside it.

    Attributes:
        file_bytes: Size of the file.
    """

    file_bytes: int
    opcodes: int = field(default=MAX_OPCODES, init=False)
    calls: int = field(default=MAX_CALLS, init=False)
    memory: int = field(init=False)

    def __post_init__(self) -> None:
        self.memory = MEMORY_PER_FILE_BYTE * self.file_bytes + SMALL_FILE_BYTES

    def step(self) -> None:
        """Pays for one opcode."""
        self.opcodes -= 1
        if self.opcodes < 0:
            raise CheckpointError(f"more than {MAX_OPCODES} pickle opcodes; no checkpoint needs so many")

    def call(self) -> None:
        """Pays for a name looked up, or for a call of what was found."""
        self.calls -= 1
        if self.calls < 0:
            raise CheckpointError(f"more than {MAX_CALLS} names and objects; no checkpoint needs so many")

    def spend(self, num_bytes: int) -> None:
        """Pays for memory that the file makes a builder take."""
        self.memory -= num_bytes
        if self.memory < 0:
            raise CheckpointError(
                f"its contents claim more than {MEMORY_PER_FILE_BYTE} times the {self.file_bytes} bytes of the file"
            )
