"""Markdown of a card, from top to bottom, with the YAML before it that the Hugging Face Hub reads."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ganaug import __version__
from ganaug.edits.label_table import LabelColumns
from ganaug.faces.face_dataset import natural
from ganaug.model_facts import NOT_STATED
from ganaug.terminal import printable

NOT_KNOWN = "not known: the files do not say."
UNKNOWN = NOT_KNOWN.capitalize()
_MANY_CLASSES = 25  # values of a column from which on it names photos rather than groups
# Of the Hub: https://huggingface.co/docs/hub/datasets-cards
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


class Card:
    """A card that is put together section by section.

    Args:
        name: Of what it is about.
        count: Pictures or faces; None for a model.
        tags: For the Hub.
        licence: In words, as a file states it.
        model: A model card, else a data card.
    """

    def __init__(
        self, name: str, count: int | None, tags: Sequence[str], licence: str = NOT_STATED, model: bool = False
    ) -> None:
        # The Hub knows licences by short names; what a file says in words goes along as it is.
        is_stated = not licence.startswith(("not stated", "Not stated"))
        yaml = [f"license: {'other' if is_stated else 'unknown'}"]
        yaml += [f"license_name: {json.dumps(licence)}"] if is_stated else []
        yaml += ["library_name: ganaug"] if model else [f"pretty_name: {json.dumps(name)}"]
        if count is not None:
            yaml += ["size_categories:", f"- {next((size for most, size in _SIZES if count < most), 'n>1M')}"]
        yaml += ["tags:", *(f"- {tag}" for tag in tags)]
        kind = "Model" if model else "Data"
        self._parts = ["---\n" + "\n".join(yaml) + "\n---", f"# {kind} card: {escaped(name)}"]

    def heading(self, text: str) -> None:
        """Begins a section."""
        self._parts.append(f"## {text}")

    def text(self, text: str) -> None:
        """A paragraph, or several."""
        self._parts.append(text)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A table; nothing where there are no rows."""
        lines = ["| " + " | ".join(escaped(plain(cell)) for cell in row) + " |" for row in rows]
        if lines:
            head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            self._parts.append("\n".join([*head, *lines]))

    def facts(self, facts: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        """Those of a model."""
        self.table(["", ""], [[name.replace("_", " "), value] for name, value in {**facts, **more}.items()])

    def groups(self, table: str | Path | None, keys: Sequence[str], what: str = "faces") -> None:
        """Counts by every column of a table that has few values."""
        if table is None:
            self.text(f"Groups (race, gender, age): {UNKNOWN} `--groups CSV` counts them.")
            return
        photos = list(dict.fromkeys(keys))
        columns, found = LabelColumns.read(table, photos, None)
        place = {key: row for row, key in enumerate(found)}
        counted = [place[key] for key in keys if key in place]
        self.text(
            f"Groups as `{Path(table).name}` has them, of {len(counted)} of {len(keys)} {what}; who assigned them, and "
            "whether the people were asked, is not known."
        )
        for name in columns.names:
            cells = columns.cells(name)
            values = Counter(cells[row] for row in counted)
            if len(values) <= _MANY_CLASSES:
                rows = [
                    [value or "no value", count]
                    for value, count in sorted(values.items(), key=lambda of: natural(of[0]))
                ]
                self.table([escaped(name), what], rows)

    def markdown(self) -> str:
        """The whole card."""
        end = f"*Written by `ganaug card`, ganaug {__version__}, from the files alone.*"
        text = "\n\n".join([*self._parts, end]) + "\n"
        return "\n".join(map(printable, text.split("\n")))


def plain(value: Any) -> str:
    """A value as a cell has it."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def escaped(text: str) -> str:
    """Text that means nothing in Markdown's tables, nor in HTML."""
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
