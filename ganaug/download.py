"""One file over HTTP, as often interrupted as it may be: what has arrived is kept and continued.

The bytes go to ``FILE.part``; ``FILE.part.json`` says which version of which address they are of. A later call asks for
the rest under the condition that the file is still the same one (``Range`` with ``If-Range``, RFC 9110 sections 13.1.5
and 14.2), and starts over if it is not, or if the server cannot tell.
"""

import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from ganaug.errors import CheckpointError, UserInputError

TIMEOUT_S = 30.0  # without a single byte
MAX_FAILURES = 5  # in a row, without getting any further
FIRST_PAUSE_S = 1.0  # doubled with every failure
MAX_BYTES = 16 << 30  # of a file whose length nobody states
_CHUNK = 1 << 18
_LOCAL = ("localhost", "127.0.0.1", "::1")
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses that another attempt may not meet
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)$")


@dataclass(frozen=True)
class Version:
    """Which version of which file the bytes in ``FILE.part`` are of.

    Attributes:
        url: Address that was asked.
        validator: Strong ``ETag``, else ``Last-Modified``; empty if the server names neither.
        size: Bytes of the whole file, or None.
    """

    url: str
    validator: str
    size: int | None


class _Passing(Exception):
    """An attempt failed in a way that the next one may not."""


def check_address(url: str, comes_from: str | None = None) -> None:
    """Refuses addresses that would be read in the clear: only https, and http on this machine itself.

    Args:
        url: The address.
        comes_from: Address that redirects to it, if one does.

    Raises:
        CheckpointError: For any other address.
    """
    parts = urllib.parse.urlsplit(url)
    local = parts.hostname in _LOCAL
    if comes_from is not None and local:  # no stranger sends us to services of this machine
        local = urllib.parse.urlsplit(comes_from).hostname in _LOCAL
    if not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        where = "" if comes_from is None else f", where {comes_from} leads"
        raise CheckpointError(f"{url}{where}: not an https address; nothing was downloaded from it")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        check_address(newurl, comes_from=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def download(url: str, part: Path, *, size: int | None, verified: bool, progress: bool = True) -> Version:
    """Downloads a file to ``part``, continuing what is there; tries again when a connection breaks.

    Args:
        url: Address; https, or http on this machine.
        part: Where the bytes go. Afterwards it holds the whole file.
        size: Its length in bytes, where it is known beforehand.
        verified: Whether the caller knows the file's sha256 and will compare it. Without it, nothing is continued that
            the server does not vouch for to be the same file.
        progress: Show a bar on stderr, if that is a terminal.

    Returns:
        What the server says the file is.

    Raises:
        CheckpointError: If the server does not give the file. What has arrived stays for the next call.
        UserInputError: If this machine cannot store it.
    """
    check_address(url)
    failures, furthest = 0, _length(part)
    while True:
        try:
            return _attempt(url, part, size, verified, progress)
        except _Passing as passing:
            reached = _length(part)
            failures = 1 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures >= MAX_FAILURES:
                known = read_version(part)
                of = f" of {known.size}" if known and known.size else ""
                raise CheckpointError(
                    f"{url}: the download stopped after {reached}{of} bytes: {passing}; "
                    "run the same command again to continue"
                ) from passing
            time.sleep(FIRST_PAUSE_S * 2 ** (failures - 1))


def read_version(part: Path) -> Version | None:
    """Which file the bytes in ``part`` are of; None if that is not known."""
    try:
        stored = json.loads(_version_path(part).read_text())
        version = Version(str(stored["url"]), str(stored["validator"]), stored["size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return version if version.size is None or isinstance(version.size, int) else None


def remove_part(part: Path) -> None:
    """Forgets what has arrived."""
    part.unlink(missing_ok=True)
    _version_path(part).unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> UserInputError:
    """What a user can do when this machine does not take the file."""
    return UserInputError(
        f"{path}: cannot be written: {error.strerror or error}; choose another folder with --dir or GANAUG_HOME"
    )


def _attempt(url: str, part: Path, size: int | None, verified: bool, progress: bool) -> Version:
    """One request, from where the last one stopped."""
    known, have = read_version(part), _length(part)
    if known is None or known.url != url or not (known.validator or verified):
        known, have = None, 0
    if known is not None and have and have == known.size:
        return known  # was stopped between the last byte and the end of the call
    headers = {"User-Agent": "ganaug", "Accept-Encoding": "identity"}
    if known is not None and have:
        headers["Range"] = f"bytes={have}-"
        if known.validator:
            headers["If-Range"] = known.validator
    with closing(_open(url, headers, part)) as response:
        start = _check_range(response, known, have) if response.status == 206 else 0
        version = _check_headers(url, response, start, size, verified)
        if start and known is not None:
            same = version.validator in ("", known.validator) and known.size in (None, version.size)
            if not same:  # a server that minds no If-Range
                raise _Passing(_start_over(part, "the file was changed meanwhile"))
        _save(response, part, start, version, progress)
    return version


def _open(url: str, headers: dict[str, str], part: Path) -> http.client.HTTPResponse:
    opener = urllib.request.build_opener(_Redirects())
    try:
        response: http.client.HTTPResponse = opener.open(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # what has arrived is longer than the file: it is another file
            raise _Passing(_start_over(part, "the server has no such part of the file")) from error
        said = f"the server answers {error.code} {error.reason}"
        if error.code in _PASSING:
            raise _Passing(said) from error
        raise CheckpointError(f"{url}: {said}; has the file moved, or does it need an account?") from error
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise CheckpointError(f"{url}: cannot be trusted: {cause}") from error
        raise _Passing(str(cause) or type(cause).__name__) from error
    return response


def _check_range(response: http.client.HTTPResponse, known: Version | None, have: int) -> int:
    """First byte of a partial answer, which has to be the one that was asked for."""
    found = _RANGE.match(response.headers.get("Content-Range", ""))
    if known is None or found is None or int(found[1]) != have:
        raise CheckpointError(
            f"{response.url}: the server sends {response.headers.get('Content-Range')!r}, but was asked for the bytes "
            f"from {have} on"
        )
    return have


def _check_headers(
    url: str, response: http.client.HTTPResponse, start: int, size: int | None, verified: bool
) -> Version:
    """Which file the server sends; a web page, a wrong length and an unknown end are no file."""
    headers = response.headers
    if headers.get_content_type() == "text/html":
        raise CheckpointError(
            f"{url}: the server sends a web page in place of the file; it may have moved, or be asked for too often now"
        )
    if headers.get("Content-Encoding", "identity") != "identity":
        raise CheckpointError(f"{url}: the server sends it as {headers['Content-Encoding']}, which was not asked for")
    length = headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else None
    if total is None and not response.chunked and not verified:
        raise CheckpointError(f"{url}: the server does not say how long the file is, so its end could not be known")
    if total is not None and size is not None and total != size:
        raise CheckpointError(
            f"{url}: the server has a file of {total} bytes, expected {size}; it is not the same file"
        )
    etag = headers.get("ETag", "")  # a weak one does not vouch for every byte (RFC 9110, section 8.8.1)
    validator = headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
    return Version(url, validator, total)


def _save(response: http.client.HTTPResponse, part: Path, start: int, version: Version, progress: bool) -> None:
    """Writes the body behind the first ``start`` bytes."""
    total, at = version.size, start
    try:
        if total is not None and shutil.disk_usage(part.parent).free < total - start:
            raise UserInputError(
                f"{part.parent}: {total - start} bytes are needed, more than are free; choose another folder with "
                "--dir or GANAUG_HOME"
            )
        if not start:
            part.open("wb").close()
            _version_path(part).write_text(json.dumps(asdict(version)))
        file = part.open("r+b")
    except OSError as error:
        raise cannot_write(part, error) from error
    with file, _bar(part, total, start, progress) as bar:
        file.seek(start)
        while data := _read(response):
            at += len(data)
            if at > (MAX_BYTES if total is None else total):
                raise CheckpointError(f"{version.url}: longer than it may be; stopped after {at} bytes")
            try:
                file.write(data)
            except OSError as error:
                raise cannot_write(part, error) from error
            bar.update(len(data))
        try:
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(part, error) from error
    if total is not None and at != total:
        raise _Passing("the connection was cut")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Passing(str(error) or type(error).__name__) from error


def _bar(part: Path, total: int | None, start: int, progress: bool) -> Any:
    hidden = None if progress else True  # None: shown on a terminal only
    return tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=hidden)


def _start_over(part: Path, reason: str) -> str:
    _version_path(part).unlink(missing_ok=True)
    return reason


def _version_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _length(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0
