"""Opens hostile files under watch.

Run as a program (``python hostile.py FOLDER``) it opens each file in ``FOLDER/hostile`` in this one process, with
bounded memory, and prints one line of JSON per file; ``test_published_hostile.py`` reads these. A watch notices
whatever would be needed to do harm: running code, other programs, the network, writing files, importing, or asking
Python's own unpickler for a name.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY_LIMIT_MB = 1024
FORBIDDEN = (
    "os.", "shutil.", "subprocess.", "socket.", "ctypes.", "pty.", "tempfile.", "urllib.", "webbrowser.",
    "exec", "compile", "import", "marshal.", "pickle.find_class", "code.__new__", "function.__new__",
)  # fmt: skip
# Reading a folder's listing or a file's times harms nobody.
ALLOWED = ("os.listdir", "os.scandir")


@dataclass(frozen=True)
class Case:
    """One hostile file.

    Attributes:
        data: Its bytes.
        reason: What the refusal says, as a regular expression; None if it opens and nothing happens.
        runs: Whether Python's own unpickler runs its payload: the control that the case is no dud.
        suffix: Ending of its name.
    """

    data: bytes
    reason: str | None
    runs: bool = False
    suffix: str = ".pkl"


_watched: list[str] | None = None
_installed = False


def _notice(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None or event in ALLOWED:
        return
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        _watched.append(f"open({arguments[0]!r}, {arguments[1]!r})")
    elif event.startswith(FORBIDDEN):
        _watched.append(f"{event}({repr(arguments)[:100]})")


@contextmanager
def watched() -> Iterator[list[str]]:
    """What happened inside the block that opening weights has no need of."""
    global _watched, _installed
    if not _installed:
        sys.addaudithook(_notice)  # stays for the life of the process
        _installed = True
    seen: list[str] = []
    _watched = seen
    try:
        yield seen
    finally:
        _watched = None


def main(folder: Path) -> None:
    """Opens what lies in ``folder``; prints one line of JSON per file and a last one about memory."""
    from ganaug.errors import CheckpointError
    from ganaug.published.container import open_tree

    for path in sorted((folder / "genuine").iterdir()):  # imports whatever torch imports late
        open_tree(path)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_LIMIT_MB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = _peak_mb()
    for path in sorted((folder / "hostile").iterdir()):
        result, started = "", time.process_time()
        with watched() as seen:
            try:
                result = f"inert: {type(open_tree(path)).__name__}"
            except CheckpointError as error:
                result = f"refused: {error}"
            except BaseException as error:
                result = f"raised: {error!r}"
        seconds = time.process_time() - started
        print(json.dumps({"name": path.name, "result": result, "seen": seen, "seconds": seconds}), flush=True)
    print(json.dumps({"name": "memory", "mb": _peak_mb() - before}))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]))
