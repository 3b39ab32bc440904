"""Results that are kept line by line, so that a run can be killed at any moment."""

import json
from pathlib import Path
from typing import Any, TextIO

RESULTS = "results.jsonl"


def read_results(out: Path, name: str = RESULTS) -> list[dict[str, Any]]:
    """Finished runs. A line that was cut off by a kill is left out."""
    found = []
    path = out / name
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def open_results(out: Path, name: str = RESULTS) -> TextIO:
    """The file of results, to append to. After a line that was cut off a new one begins."""
    path = out / name
    cut_off = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    file = path.open("a")
    if cut_off:
        file.write("\n")
    return file
