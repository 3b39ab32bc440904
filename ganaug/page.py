"""One HTML page with pictures, plots and tables in it: no scripts, nothing from outside, for phones and paper."""

import base64
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ganaug.charts import bars_svg, legend, lines_svg, number
from ganaug.errors import UserInputError
from ganaug.synthetic import SYNTHETIC_TAG

Cell = str | int | float | bool | None

PRIVATE = 0o600  # a page with photos in it is for its owner alone
_FLAT_COLORS = 256  # a picture of fewer colours is a drawing: PNG keeps it sharp and small
_JPEG_QUALITY = 90
_SCROLLS_FROM = 560  # pixels: a wider picture is not shrunk further on a phone, but scrolls inside its box
# A figure, perhaps with an interval behind it and units: "0.91", "-3 %", "0.91 (0.88 to 0.93)", "12 of 20",
# or marked: "0.91 *", "(0.91)".
_FIGURE = re.compile(r"\(?[-+]?\d[\d.,]*(e[-+]?\d+)?\s?(%|dB)?(\s(of \d+|\([^a-z()]+ to [^a-z()]+\)))?( \*|\))?")
# "Nothing may be loaded", said to the browser: it holds even if text of a user slipped through.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# Lines: the colours of Okabe and Ito, "Color Universal Design" (2008), told apart by the colour-blind.
_STYLE = """
:root{color-scheme:light dark;--ink:#1c1e21;--soft:#5b6068;--back:#fff;--box:#f4f5f7;--edge:#d5d8dd;--bar:#0072b2;
--warn:#8a4b00;--warnback:#fff4e0}
@media (prefers-color-scheme:dark){:root{--ink:#e6e7e9;--soft:#a3a8b0;--back:#16181c;--box:#212429;--edge:#3a3f47;
--bar:#56b4e9;--warn:#ffcf8a;--warnback:#3a2c14}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:62rem;background:var(--back);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .4rem}
h3{font-size:1.05rem;margin:1.6rem 0 .3rem}p{margin:.5rem 0;max-width:46rem}.lead{font-size:1.1rem}
.warning{border-left:4px solid var(--warn);background:var(--warnback);color:var(--warn);padding:.5rem .8rem}
figure{margin:1rem 0}figcaption,footer{color:var(--soft);font-size:.9rem;text-align:left}
figcaption{max-width:46rem}footer{margin-top:2.5rem;border-top:1px solid var(--edge)}
.scroll{overflow-x:auto;max-width:100%}
.scroll img{display:block;max-width:100%;height:auto}
table{border-collapse:collapse;font-size:.92rem;width:max-content}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--edge);text-align:left;vertical-align:top}
thead th{border-bottom:2px solid var(--edge);vertical-align:bottom}
th,td{max-width:min(20rem,58vw)}tbody th{font-weight:500;max-width:11rem}
tbody th,thead th:first-child{position:sticky;left:0;background:var(--back)}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}thead .n{white-space:normal}
.chart{display:block;width:100%;max-width:30rem;height:auto}.chart text{fill:var(--ink);font-size:12px}
.chart rect{fill:var(--bar)}.chart .span,.chart .axis{stroke:var(--ink);fill:none}
.chart .grid{stroke:var(--edge);fill:none}
.line path{fill:none;stroke-width:2}.line{stroke:var(--c);fill:var(--c)}
.c0{--c:#0072b2}.c1{--c:#d55e00}.c2{--c:#009e73}.c3{--c:#cc79a7}.c4{--c:#e69f00}.c5{--c:#56b4e9}
@media (prefers-color-scheme:dark){.c0{--c:#3d9be0}.c1{--c:#ff7f2a}.c2{--c:#1cc797}}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:.3rem 0;padding:0;font-size:.9rem}
.swatch{width:28px;height:10px;overflow:visible}
nav ul{margin:.3rem 0;padding-left:1.2rem}a{color:inherit}
@media print{body{max-width:none;font-size:11pt}.scroll{overflow:visible}figure,tr{break-inside:avoid}
h2,h3{break-after:avoid}.scroll img{min-width:0!important}}
"""


class Page:
    """A page that is put together from top to bottom and written as one file.

    Every text is escaped. A page with pictures ends with a note that it is personal data.

    Args:
        title: Stands in the window's title and on top.
        lead: What the page says in a sentence or two, below the title.

    Example:
        >>> page = Page("Report", "Two faces.")
        >>> page.table(["edit", "identity"], [["age", 0.91]])
        >>> "<td class=\\"n\\">0.910</td>" in page.html()
        True
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self.title = title
        self.lead = lead
        self._parts: list[str] = []
        self._sections: list[str] = []
        self._has_pictures = False

    def heading(self, text: str, level: int = 2) -> None:
        """Begins a section (level 2) or a part of one (3); three sections or more are listed on top.

        Raises:
            ValueError: If the level is neither.
        """
        if level not in (2, 3):
            raise ValueError(f"level must be 2 or 3, got {level}: 1 is the title")
        name = ""
        if level == 2:
            name = f' id="s{len(self._sections)}"'
            self._sections.append(text)
        self._parts.append(f"<h{level}{name}>{escape(text)}</h{level}>")

    def text(self, text: str) -> None:
        """Paragraphs; an empty line parts them."""
        self._parts += [f"<p>{escape(part)}</p>" for part in text.split("\n\n") if part.strip()]

    def warning(self, text: str) -> None:
        """A paragraph that stands out."""
        self._parts.append(f'<p class="warning"><strong>Note.</strong> {escape(text)}</p>')

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "") -> None:
        """A table, which scrolls sideways inside its box where it is too wide.

        Args:
            columns: Their names.
            rows: Cells; the first names its row. Floats are rounded for reading; None and NaN are a dash. A column of
                figures (numbers, or texts such as ``0.91 (0.88 to 0.93)``, ``12 %``) is right-aligned.
            caption: Stands above.

        Raises:
            ValueError: If a row has not one cell for each column.
        """
        wrong = next((row for row in rows if len(row) != len(columns)), None)
        if wrong is not None:
            raise ValueError(f"a row of {len(wrong)} cells in a table of {len(columns)} columns: {list(wrong)}")
        numeric = [bool(rows) and all(_is_figure(row[place]) for row in rows) for place in range(len(columns))]
        right = [' class="n"' if is_numeric else "" for is_numeric in numeric]
        head = "".join(f'<th scope="col"{r}>{escape(name)}</th>' for name, r in zip(columns, right, strict=True))
        body = []
        for row in rows:
            cells = [f"<td{r}>{escape(number(cell))}</td>" for cell, r in zip(row, right, strict=True)]
            if cells and not numeric[0]:
                cells[0] = f'<th scope="row">{escape(number(row[0]))}</th>'
            body.append(f"<tr>{''.join(cells)}</tr>")
        # Above the box, not inside the table: it must not scroll away with it.
        named = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        self._parts.append(f"<figure>{named}{_scroll(table, caption or 'table')}</figure>")

    def picture(
        self,
        image: Image.Image | NDArray[np.uint8],
        alt: str,
        caption: str = "",
        mark: Mapping[str, Any] | None = None,
        shrinks: bool = False,
    ) -> None:
        """A picture, inside the page's own text.

        Args:
            image: A PIL image, or ``(H, W, 3)`` uint8.
            alt: What it shows, for those who do not see it.
            caption: Stands below.
            mark: For a picture with generated faces: who made it, as in :mod:`ganaug.synthetic`; stays in the picture
                when it is saved from the page.
            shrinks: Fit it to a phone's width; else a wide picture keeps its details and scrolls inside its box.
        """
        shown = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
        kind, data = _encode(shown, mark)
        width, height = shown.size
        least = f' style="min-width:{min(width, _SCROLLS_FROM)}px"' if width > 340 and not shrinks else ""
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        picture = f'<img src="{source}" width="{width}" height="{height}" alt="{escape(alt)}"{least}>'
        self._parts.append(_figure(_scroll(picture, alt), caption))
        self._has_pictures = True

    def bars(
        self,
        names: Sequence[str],
        values: Sequence[float | None],
        caption: str,
        intervals: Sequence[tuple[float, float] | None] | None = None,
    ) -> None:
        """A bar for each value; thin lines are intervals. See :func:`ganaug.charts.bars_svg`."""
        self._parts.append(_figure(bars_svg(names, values, caption, intervals), caption))

    def lines(
        self, series: Mapping[str, Sequence[tuple[float, float]]], x_name: str, y_name: str, caption: str
    ) -> None:
        """Lines over common axes. See :func:`ganaug.charts.lines_svg`."""
        drawn = lines_svg(series, x_name, y_name, caption)
        self._parts.append(_figure(drawn + legend(list(series)), caption))

    def html(self) -> str:
        """The whole page."""
        lead = f'<p class="lead">{escape(self.lead)}</p>' if self.lead else ""
        links = "".join(f'<li><a href="#s{n}">{escape(name)}</a></li>' for n, name in enumerate(self._sections))
        nav = f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if len(self._sections) > 2 else ""
        note = "This page shows faces, which are personal data. The file can be read by its owner alone; "
        note += "nothing in it is loaded from elsewhere, and it sends nothing."
        footer = f"<footer><p>{note}</p></footer>" if self._has_pictures else ""
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            '<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style></head>\n"
            f"<body><h1>{escape(self.title)}</h1>{lead}{nav}<main>\n"
            + "\n".join(self._parts)
            + f"\n</main>{footer}</body></html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Writes the page, see :func:`write_private`."""
        # A file name need not be UTF-8; what is none becomes a question mark rather than an error.
        return write_private(path, self.html().encode(errors="replace"))


def write_private(path: str | Path, data: bytes) -> Path:
    """Writes a file whole or not at all, for its owner alone (mode 0600); makes the folder.

    Returns:
        The file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "wb") as file:
        file.write(data)
    os.replace(temporary, path)
    return path


def check_folder(path: Path) -> None:
    """Tries whether files can be written into a folder, before the work of making them; leaves nothing behind.

    Raises:
        UserInputError: If the path, or what it lies in, is no folder.
        OSError: If nothing can be written there.
    """
    file = next((part for part in (path, *path.parents) if part.exists() and not part.is_dir()), None)
    if file is not None:
        raise UserInputError(f"--out {str(path)!r}: {str(file)!r} is a file; give a folder")
    made = [part for part in (path, *path.parents) if not part.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryFile(dir=path):
            pass
    finally:
        for part in made:
            part.rmdir()


def _is_figure(cell: Cell) -> bool:
    if isinstance(cell, str):
        return cell in ("", "-") or _FIGURE.fullmatch(cell) is not None
    return not isinstance(cell, bool)


def _encode(image: Image.Image, mark: Mapping[str, Any] | None) -> tuple[str, bytes]:
    """A drawing as PNG, a photo as JPEG: a sheet of faces is a tenth as long so."""
    buffer = io.BytesIO()
    image = image if image.mode in ("RGB", "RGBA", "L") else image.convert("RGB")
    if image.mode == "RGBA" or image.getcolors(_FLAT_COLORS) is not None:
        info = PngInfo()
        if mark is not None:
            info.add_text(SYNTHETIC_TAG, json.dumps({"made_by": "ganaug", **mark}))
        image.save(buffer, "PNG", pnginfo=info, optimize=True)
        return "png", buffer.getvalue()
    comment = "" if mark is None else f"{SYNTHETIC_TAG} {json.dumps({'made_by': 'ganaug', **mark})}"
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0, comment=comment)
    return "jpeg", buffer.getvalue()


def _scroll(inner: str, label: str) -> str:
    """A box that scrolls sideways, by keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{inner}</div>'


def _figure(inner: str, caption: str) -> str:
    named = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{inner}{named}</figure>"
