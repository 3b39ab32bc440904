"""Fetching against a server on this machine that does what servers do: cuts, ignores ranges, changes files, lies."""

import dataclasses
import hashlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganaug import download as download_module
from ganaug.download import check_address
from ganaug.errors import CheckpointError, UserInputError
from ganaug.fetch import fetch
from ganaug.known_weights import (
    KNOWN_WEIGHTS,
    KnownWeights,
    Licence,
    check_unchanged,
    fetched,
    how_to_get,
    known_by_digest,
    read_record,
    record_path,
    weights_folder,
    weights_table,
)

BODY = bytes(range(256)) * 4096  # 1 MiB; a wrong offset shows
SHA256 = hashlib.sha256(BODY).hexdigest()
NAME = "test-weights"


class Server(http.server.ThreadingHTTPServer):
    """Gives ``body`` at any path; the attributes say how badly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.etag: str | None = '"one"'
        self.ranges = True
        self.cuts: list[int] = []  # bytes after which the next answers are cut
        self.statuses: list[int] = []  # of the next answers
        self.content_type = "application/octet-stream"
        self.redirect = ""
        self.chunked = False
        self.pause_s = 0.0  # between pieces of 64 KiB
        self.silence_s = 0.0  # before the answer
        self.minds_if_range = True
        self.requests: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/weights.bin"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that went away


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server, self.close_connection = self.server, True
        server.requests.append(dict(self.headers))
        time.sleep(server.silence_s)
        if server.statuses:
            self.send_response(server.statuses.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if server.ranges and asked and (condition is None or condition == server.etag or not server.minds_if_range):
            start = int(asked[1])
            if start >= len(server.body):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Type", server.content_type)
        piece = server.body[start:]
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(piece)))
        self.end_headers()
        if server.cuts:
            piece = piece[: server.cuts.pop(0)]
        for at in range(0, len(piece), 1 << 16):
            part = piece[at : at + (1 << 16)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if server.chunked else part)
            time.sleep(server.pause_s)
        if server.chunked and len(piece) == len(server.body) - start:
            self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download_module, "FIRST_PAUSE_S", 0.001)
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANAUG_HOME", str(tmp_path))
    return tmp_path / "weights"


@pytest.fixture
def entry(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> KnownWeights:
    """An entry with a sha256."""
    licence = Licence("Test licence", "https://example.org/licence", "looking at it")
    entry = KnownWeights(
        "weights.bin", "stylegan2", 64, "generator", licence, "https://example.org", server.url, SHA256, len(BODY)
    )
    monkeypatch.setitem(KNOWN_WEIGHTS, NAME, entry)
    return entry


@pytest.fixture
def unverified(entry: KnownWeights, monkeypatch: pytest.MonkeyPatch) -> KnownWeights:
    """The same without sha256 and size: trusted on first use."""
    entry = dataclasses.replace(entry, sha256=None, size=None)
    monkeypatch.setitem(KNOWN_WEIGHTS, NAME, entry)
    return entry


def get() -> Path:
    return fetch(NAME, accept_licence=True, progress=False)


def leftovers(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir())


def test_whole_file(server: Server, entry: KnownWeights, home: Path) -> None:
    path = get()
    assert path == home / "weights.bin"
    assert path.read_bytes() == BODY
    assert leftovers(home) == ["weights.bin", "weights.bin.json"]
    record = read_record(path)
    assert record is not None
    assert record["sha256"] == SHA256
    assert record["sha256_from"] == "table"
    assert record["size"] == len(BODY)
    assert record["source"] == server.url
    assert record["licence_accepted"] is True
    assert "Test licence" in record["licence"]
    assert fetched(NAME) == path
    assert get() == path
    assert len(server.requests) == 1, "what is here is not asked for again"


def test_licence_has_to_be_accepted(server: Server, entry: KnownWeights, home: Path) -> None:
    with pytest.raises(UserInputError, match=r"Test licence.*https://example.org/licence.*--accept-licence"):
        fetch(NAME)
    assert not server.requests
    assert not home.exists()
    get()
    assert fetch(NAME) == home / "weights.bin", "it was accepted before"


def test_unknown_name(home: Path) -> None:
    with pytest.raises(UserInputError, match=r"unknown weights 'nothing'.*stylegan2-ffhq-256"):
        fetch("nothing", accept_licence=True)


def test_another_folder(server: Server, entry: KnownWeights, home: Path, tmp_path: Path) -> None:
    path = fetch(NAME, accept_licence=True, directory=tmp_path / "a" / "b", progress=False)
    assert path == tmp_path / "a" / "b" / "weights.bin"
    assert fetched(NAME) is None
    assert fetched(NAME, tmp_path / "a" / "b") == path


@pytest.mark.parametrize("cuts", [[300_000], [0, 1, 70_000, 500_000]])
def test_cut_connection_is_continued(cuts: list[int], server: Server, unverified: KnownWeights) -> None:
    server.cuts = list(cuts)
    assert get().read_bytes() == BODY
    starts = [request.get("Range") for request in server.requests]
    expected, at = [], 0
    for cut in [*cuts, None]:
        expected.append(f"bytes={at}-" if at else None)
        at += cut or 0
    assert starts == expected
    assert all(request.get("If-Range") == '"one"' for request in server.requests if "Range" in request)


def test_cut_in_a_chunked_answer(server: Server, entry: KnownWeights) -> None:
    server.chunked, server.cuts = True, [131_072]
    assert get().read_bytes() == BODY
    assert len(server.requests) == 2


def test_gives_up_and_the_next_call_continues(server: Server, unverified: KnownWeights, home: Path) -> None:
    server.cuts = [200_000] + [0] * download_module.MAX_FAILURES
    with pytest.raises(CheckpointError, match=rf"stopped after 200000 of {len(BODY)} bytes.*again to continue"):
        get()
    assert leftovers(home) == ["weights.bin.part", "weights.bin.part.json"]
    assert fetched(NAME) is None
    server.cuts, server.requests = [], []
    assert get().read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == ["bytes=200000-"]
    assert leftovers(home) == ["weights.bin", "weights.bin.json"]


def test_server_without_ranges_starts_over(server: Server, unverified: KnownWeights) -> None:
    server.ranges, server.cuts = False, [300_000]
    assert get().read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == [None, "bytes=300000-"]


@pytest.mark.parametrize("minds_if_range", [True, False])
def test_file_changed_between_the_parts(minds_if_range: bool, server: Server, unverified: KnownWeights) -> None:
    """The halves of two versions must never become one file, even if the server does not mind If-Range."""
    server.minds_if_range = minds_if_range
    server.cuts = [300_000] + [0] * download_module.MAX_FAILURES
    with pytest.raises(CheckpointError):
        get()
    server.body, server.etag, server.cuts = BODY[::-1], '"two"', []
    assert get().read_bytes() == BODY[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_validator_nothing_is_continued(etag: str | None, server: Server, unverified: KnownWeights) -> None:
    server.etag, server.cuts = etag, [300_000]
    assert get().read_bytes() == BODY
    assert all("Range" not in request for request in server.requests)


def test_without_validator_a_known_sha256_vouches(server: Server, entry: KnownWeights) -> None:
    server.etag, server.cuts = None, [300_000]
    assert get().read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == [None, "bytes=300000-"]


def test_shorter_file_after_a_cut(server: Server, unverified: KnownWeights) -> None:
    server.cuts, server.minds_if_range = [300_000] + [0] * download_module.MAX_FAILURES, False
    with pytest.raises(CheckpointError):
        get()
    server.body, server.cuts = BODY[:1000], []  # asking for the rest gives 416
    assert get().read_bytes() == BODY[:1000]


def test_wrong_hash(server: Server, entry: KnownWeights, home: Path) -> None:
    server.body = BODY[:-1] + b"x"
    wrong = hashlib.sha256(server.body).hexdigest()
    with pytest.raises(CheckpointError, match=rf"not kept: its sha256 is {wrong}, expected {SHA256}"):
        get()
    assert leftovers(home) == []
    server.body = BODY
    assert get().read_bytes() == BODY


def test_wrong_size(server: Server, entry: KnownWeights, home: Path) -> None:
    server.body = BODY[:-1]
    with pytest.raises(CheckpointError, match=rf"{len(BODY) - 1} bytes, expected {len(BODY)}"):
        get()
    assert leftovers(home) == []


def test_trust_on_first_use(server: Server, unverified: KnownWeights, home: Path) -> None:
    path = get()
    record = read_record(path)
    assert record is not None
    assert record["sha256"] == SHA256
    assert record["sha256_from"] == "first use"
    path.unlink()
    server.body, server.etag = BODY[::-1], '"two"'
    with pytest.raises(CheckpointError, match=rf"expected {SHA256} \(recorded when it first came\).*weights.bin.json"):
        get()
    assert not path.exists()
    record_path(path).unlink()
    assert get().read_bytes() == BODY[::-1]


@pytest.mark.parametrize("known", [True, False])
def test_changed_file_is_refused_and_not_replaced(known: bool, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("entry" if known else "unverified")
    path = get()
    check_unchanged(path)
    changed = BODY[:1000] + b"?" + BODY[1001:]
    path.write_bytes(changed)
    for open_it in (lambda: fetched(NAME), lambda: check_unchanged(path), get):
        with pytest.raises(CheckpointError, match=rf"not the file that was fetched.*expected {SHA256}; delete it"):
            open_it()
    assert path.read_bytes() == changed


def test_damaged_record(server: Server, entry: KnownWeights, home: Path) -> None:
    path = get()
    for text in ("{", "[]", '{"sha256": 3}'):
        record_path(path).write_text(text)
        with pytest.raises(CheckpointError, match=r"weights.bin.json: damaged"):
            fetched(NAME)
        check_unchanged(path)  # for all that is known, the record of something else


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refused_at_once(status: int, server: Server, entry: KnownWeights, home: Path) -> None:
    server.statuses = [status] * 9
    with pytest.raises(CheckpointError, match=rf"weights.bin: the server answers {status}"):
        get()
    assert len(server.requests) == 1
    assert leftovers(home) == []


def test_passing_trouble_of_the_server(server: Server, entry: KnownWeights) -> None:
    server.statuses = [503, 500, 429]
    assert get().read_bytes() == BODY
    assert len(server.requests) == 4


def test_lasting_trouble_of_the_server(server: Server, entry: KnownWeights) -> None:
    server.statuses = [500] * 99
    with pytest.raises(CheckpointError, match=r"answers 500.*again to continue"):
        get()
    assert len(server.requests) == download_module.MAX_FAILURES


def test_nobody_listens(server: Server, entry: KnownWeights, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(CheckpointError, match="refused"):
        get()
    assert leftovers(home) == []


def test_silent_server_times_out(server: Server, entry: KnownWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(download_module, "MAX_FAILURES", 2)
    server.silence_s = 0.3
    with pytest.raises(CheckpointError, match="timed out"):
        get()


def test_web_page_in_place_of_the_file(server: Server, unverified: KnownWeights, home: Path) -> None:
    server.content_type, server.body = "text/html; charset=utf-8", b"<html>Virus scan warning</html>"
    with pytest.raises(CheckpointError, match="sends a web page in place of the file"):
        get()
    assert leftovers(home) == []


def test_redirects(server: Server, entry: KnownWeights) -> None:
    server.redirect = "http://example.org/weights.bin"
    with pytest.raises(CheckpointError, match=r"example.org/weights.bin, where http://127.*not an https address"):
        get()


@pytest.mark.parametrize(
    ("url", "comes_from", "allowed"),
    [
        ("https://example.org/x", None, True),
        ("https://cdn.example.org/x", "https://example.org/x", True),
        ("http://localhost:80/x", None, True),
        ("http://[::1]:80/x", None, True),
        ("http://127.0.0.1/x", "http://localhost/x", True),
        ("http://example.org/x", None, False),
        ("http://example.org/x", "https://example.org/x", False),
        ("http://127.0.0.1/x", "https://example.org/x", False),
        ("http://127.0.0.1.example.org/x", None, False),
        ("http://127.0.0.1@example.org/x", None, False),
        ("ftp://example.org/x", None, False),
        ("file:///etc/passwd", None, False),
    ],
)
def test_addresses(url: str, comes_from: str | None, allowed: bool) -> None:
    if allowed:
        check_address(url, comes_from)
    else:
        with pytest.raises(CheckpointError, match="not an https address"):
            check_address(url, comes_from)


def test_unwritable_folder(server: Server, entry: KnownWeights, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserInputError, match=r"cannot be written.*--dir or GANAUG_HOME"):
        fetch(NAME, accept_licence=True, directory=tmp_path / "file" / "deeper")


def test_full_disk(server: Server, entry: KnownWeights, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserInputError, match=f"{len(BODY)} bytes are needed"):
        get()


def test_by_hand(server: Server, unverified: KnownWeights, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN_WEIGHTS, NAME, dataclasses.replace(unverified, url=None))
    assert "by hand from https://example.org" in how_to_get(NAME)
    with pytest.raises(UserInputError, match=r"by hand: open https://example.org in a browser"):
        get()
    assert leftovers(home) == []
    (home / "weights.bin").write_bytes(b"\n<!DOCTYPE html>")
    with pytest.raises(CheckpointError, match="a web page"):
        get()
    (home / "weights.bin").write_bytes(BODY)
    assert fetched(NAME) is None, "nobody has accepted its licence yet"
    assert get() == fetched(NAME) == home / "weights.bin"
    assert not server.requests


def test_put_by_hand_but_another_file(server: Server, entry: KnownWeights, home: Path) -> None:
    home.mkdir()
    (home / "weights.bin").write_bytes(b"something of the user")
    with pytest.raises(CheckpointError, match=f"expected {SHA256}"):
        get()
    assert (home / "weights.bin").read_bytes() == b"something of the user"


FETCHER = textwrap.dedent("""
    import dataclasses, json, sys
    from ganaug import known_weights
    from ganaug.fetch import fetch
    fields = json.loads(sys.argv[1])
    fields["terms"] = known_weights.Licence(**fields["terms"])
    known_weights.KNOWN_WEIGHTS["test-weights"] = known_weights.KnownWeights(**fields)
    fetch("test-weights", accept_licence=True, progress=False)
""")


def start(entry: KnownWeights) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", FETCHER, json.dumps(dataclasses.asdict(entry))]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a shell's background jobs
    )


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_run_again(sign: signal.Signals, server: Server, unverified: KnownWeights, home: Path) -> None:
    server.pause_s = 0.05
    process = start(unverified)
    part = home / "weights.bin.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size >= 200_000):
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(sign)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert fetched(NAME) is None
    have = part.stat().st_size
    server.pause_s, server.requests = 0.0, []
    assert get().read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == [f"bytes={have}-"]
    assert leftovers(home) == ["weights.bin", "weights.bin.json"]


def test_two_processes_at_once(server: Server, unverified: KnownWeights, home: Path) -> None:
    server.pause_s = 0.02
    processes = [start(unverified) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    assert (home / "weights.bin").read_bytes() == BODY
    assert fetched(NAME) == home / "weights.bin"
    assert len(server.requests) == 1, "the second waits for the first"
    assert leftovers(home) == ["weights.bin", "weights.bin.json"]


def test_found_by_its_digest(server: Server, unverified: KnownWeights, home: Path) -> None:
    assert known_by_digest(SHA256) is None
    get()
    assert known_by_digest(SHA256) is unverified
    assert known_by_digest("") is None
    ada = KNOWN_WEIGHTS["stylegan2-ada-ffhq-1024"]
    assert known_by_digest(str(ada.sha256)) is ada


def test_where_files_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GANAUG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert weights_folder() == tmp_path / "home" / "weights"
    monkeypatch.delenv("GANAUG_HOME")
    assert weights_folder() == tmp_path / "cache" / "ganaug" / "weights"
    monkeypatch.setenv("HOME", str(tmp_path))
    for cache in ("relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        assert weights_folder() == tmp_path / ".cache" / "ganaug" / "weights"


def test_table(home: Path) -> None:
    for name, entry in KNOWN_WEIGHTS.items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert entry.file == os.path.basename(entry.file)
        assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert entry.page.startswith("https://")
        assert entry.terms.url.startswith("https://")
        assert entry.terms.allows
        assert f"{entry.resolution}" in name
        assert entry.url is None or entry.url.startswith("https://")
        assert fetched(name) is None
        assert name in how_to_get(name)
    files = [entry.file for entry in KNOWN_WEIGHTS.values()]
    assert len(set(files)) == len(files), "two entries would overwrite each other"
    rows = weights_table()
    assert [row["name"] for row in rows] == list(KNOWN_WEIGHTS)
    assert all(row["licence"] and row["fetched"] is None for row in rows)
