"""A study: what lies on the disk, what the server gives away, and that no answer is lost."""

import asyncio
import json
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Faces
from PIL import Image
from study_helpers import CONFIG, TOTAL, attributes_of, right_choice, wrap, wrong_choice
from study_helpers import made_study as made_study
from study_helpers import store as store
from study_helpers import study as study

from ganaug import rng
from ganaug.cli import main
from ganaug.errors import UserInputError
from ganaug.study.create import StudyConfig, create_study
from ganaug.study.pictures import Pictures, distorted, encode
from ganaug.study.plan import Shown
from ganaug.study.server import listen
from ganaug.study.store import Conflict, Store

# Pictures and files


def test_variants_are_what_the_loader_serves(faces: Faces) -> None:
    train = wrap(faces)
    pictures = Pictures(train, batch_size=4)
    chosen = pictures.with_variant(list(range(9, 0, -1)), 6)
    assert chosen == [9, 8, 7, 6, 5, 4]
    pictures.read_photos([3, 9])
    images = next(iter(train.loader(len(train))))[0].permute(0, 2, 3, 1).numpy()
    for index in (9, 4):
        shown = np.asarray(open_png(pictures.png(Shown("variant", index), 0)))
        assert np.abs(shown.astype(int) - images[index].astype(int)).max() <= 1, "but for another batch's rounding"
        assert pictures.recipes[index] == train.draw([index], 0).row(0)
    photo = np.asarray(open_png(pictures.png(Shown("photo", 9), 0)))
    np.testing.assert_array_equal(photo, train.dataset[9][0].permute(1, 2, 0).numpy())
    assert np.abs(photo.astype(int) - shown.astype(int)).max() > 1


def open_png(data: bytes) -> Image.Image:
    import io

    return Image.open(io.BytesIO(data))


def test_distorted_pictures_keep_their_pixels_but_not_their_places() -> None:
    pixels = rng.uniforms(0, 0, np.arange(19), "test", 21 * 3).reshape(19, 21, 3)
    picture = (pixels * 255).astype(np.uint8)
    found = np.asarray(open_png(distorted(encode(picture), 3, 7)))
    assert found.shape == picture.shape and (found != picture).any(axis=2).mean() > 0.5
    assert sorted(map(tuple, found.reshape(-1, 3))) == sorted(map(tuple, picture.reshape(-1, 3)))


def test_a_study_is_for_its_owner_alone_and_its_files_tell_nothing(made_study: Path, faces: Faces) -> None:
    assert stat.S_IMODE(made_study.stat().st_mode) == 0o700
    assert stat.S_IMODE((made_study / "study.sqlite").stat().st_mode) == 0o600
    files = sorted((made_study / "images").iterdir())
    assert len(files) == 2 * TOTAL
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert re.fullmatch(r"[0-9a-f]{24}\.png", path.name)
        data = path.read_bytes()
        chunks, at = [], 8
        while at < len(data):
            length = int.from_bytes(data[at : at + 4], "big")
            chunks.append(data[at + 4 : at + 8])
            at += length + 12
        assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}, "no text, no time"
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((24, 24), "RGB")
    order = [path.name for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)]
    db = sqlite3.connect(made_study / "study.sqlite")
    made = {name for (name,) in db.execute("SELECT name FROM pictures WHERE synthetic")}
    stored = [name for (name,) in db.execute("SELECT name FROM pictures ORDER BY rowid")]
    db.close()
    assert order == stored == sorted(order), "neither times nor rows follow the trials"
    assert len(made) == 4 + 3, "variants of 4 pairs, and 2 + 1 of persons"


def test_the_database_keeps_the_mark_of_generated_pictures(store: Store, faces: Faces) -> None:
    for name, kind, key, synthetic, recipe in store._all("SELECT * FROM pictures"):
        assert (store.folder / "images" / name).is_file() and key in faces.keys
        assert synthetic == (kind == "variant")
        told = json.loads(recipe)
        assert told == {} if not synthetic else (told["synthetic"] and told["key"] == key and told["edits"])
    assert store.meta["fingerprint"] == wrap(faces).header.fingerprint


def test_identical_pictures_are_two_files(store: Store) -> None:
    """One name for both would tell without a look."""
    pairs = store._all("SELECT first, second FROM trials WHERE kind = 'catch' AND answer = 'same'")
    assert pairs
    for first, second in pairs:
        assert first != second
        assert len({(store.folder / "images" / name).read_bytes() for name in (first, second)}) == 1


def test_create_refuses_what_it_cannot_do(faces: Faces, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserInputError, match="is there already"):
        create_study(wrap(faces), tmp_path / "there", CONFIG)
    with pytest.raises(UserInputError, match=r"wrap the photos with ratio=1\.0"):
        create_study(wrap(faces, ratio=0.5), tmp_path / "new", CONFIG)
    with pytest.raises(UserInputError, match="--consent"):
        create_study(wrap(faces), tmp_path / "new", StudyConfig(trials=1, catch=0, consent=tmp_path / "nothing.txt"))
    for wrong in ({"tasks": ("taste",)}, {"trials": 0}, {"raters": 0}, {"exposure_ms": -1}, {"tasks": ()}):
        with pytest.raises(UserInputError, match="must be"):
            StudyConfig(**wrong)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["there"], "nothing half made is left"


def test_killed_while_it_is_made_leaves_no_study(faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = tmp_path / ".new.draft"
    draft.mkdir()
    (draft / "of a killed run").touch()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "create", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            create_study(wrap(faces), tmp_path / "new", CONFIG)
    assert not list(tmp_path.iterdir())
    create_study(wrap(faces), tmp_path / "new", CONFIG)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"images", "study.sqlite", "README.txt"}


# The store


def test_the_order_is_the_servers(store: Store) -> None:
    assert store.state(1) == {"state": "consent", "consent": store.meta["consent"]}
    with pytest.raises(Conflict, match="no answer is expected"):
        store.answer(1, 0, "id-00000", "left", 900)
    state = store.consent(1)
    assert (state["done"], state["total"], state["trial"]["place"]) == (0, TOTAL, 0)
    with pytest.raises(Conflict, match="is not the next one"):
        store.answer(1, 1, "id-00000", "left", 900)
    with pytest.raises(UserInputError, match="answered by left or right, got 'same'"):
        store.answer(1, 0, "id-00000", "same", 900)
    for place in range(TOTAL):
        state = store.answer(1, place, f"id-{place:05d}", right_choice(store, 1, place), 900)
        assert state["done"] == place + 1
    assert state == {"state": "done", "done": TOTAL, "total": TOTAL, "exposure_ms": 0} == store.state(1)
    assert all(row["choice"] == row["answer"] for row in store.answers())


def test_an_answer_counts_once(store: Store) -> None:
    store.consent(1)
    first = store.answer(1, 0, "id-00000", wrong_choice(store, 1, 0), 900)
    assert store.answer(1, 0, "id-00000", right_choice(store, 1, 0), 100) == first, "a retry is acknowledged"
    with pytest.raises(Conflict, match="pair 0 is not the next one"):
        store.answer(1, 0, "id-00001", right_choice(store, 1, 0), 900)  # another tab
    with pytest.raises(Conflict, match="was given to pair 0, not 1"):
        store.answer(1, 1, "id-00000", "left", 900)
    (row,) = store.answers()
    assert row["choice"] != row["answer"] and row["ms"] == 900, "the first one stands"


def test_many_threads_give_one_answer(store: Store) -> None:
    store.consent(1)
    results: list[str] = []

    def give(number: int) -> None:
        try:
            store.answer(1, 0, f"id-{number % 4:05d}", "left", 500)
            results.append("taken")
        except Conflict:
            results.append("conflict")

    threads = [threading.Thread(target=give, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(results) == {"taken": 4, "conflict": 12} and len(store.answers()) == 1


def test_raters_do_not_touch_each_other(store: Store) -> None:
    for rater in (1, 2):
        store.consent(rater)
    store.answer(1, 0, "id-00000", right_choice(store, 1, 0), 900)
    store.answer(2, 0, "id-00000", wrong_choice(store, 2, 0), 800)
    assert [row["answers"] for row in store.raters()] == [1, 1, 0]
    assert store.state(3)["state"] == "consent"


def test_withdrawal_erases_answers_from_the_disk(store: Store) -> None:
    for rater in (1, 2):
        store.consent(rater)
        for place in range(3):
            store.answer(rater, place, f"secret-{rater}-{place}", right_choice(store, rater, place), 900)
    assert b"secret-1" in on_disk(store.folder) and b"secret-2" in on_disk(store.folder)
    assert store.withdraw(1) == {"state": "withdrawn"} == store.state(1) == store.consent(1)
    assert b"secret-1" not in on_disk(store.folder) and b"secret-2" in on_disk(store.folder)
    with pytest.raises(Conflict, match="withdrawn"):
        store.answer(1, 0, "id-00000", "left", 900)
    assert {row["rater"] for row in store.answers()} == {2}
    assert list(store.tokens()) == [2, 3]


def test_withdrawal_is_not_told_before_the_log_is_empty(store: Store) -> None:
    """A reader of the log keeps it. Whoever asks again, and a server that starts again, empties it."""
    for rater in (1, 2):
        store.consent(rater)
        store.answer(rater, 0, f"secret-{rater}", right_choice(store, rater, 0), 900)
    store._db.execute("PRAGMA busy_timeout = 0")
    reader = sqlite3.connect(store.folder / "study.sqlite")
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM answers").fetchall()
    for rater in (1, 2):
        with pytest.raises(sqlite3.OperationalError, match="keeps the log"):
            store.withdraw(rater)
    assert not store.answers() and b"secret-1" in on_disk(store.folder)
    reader.close()
    shutil.copytree(store.folder, store.folder.with_name("killed"))
    assert store.withdraw(1) == {"state": "withdrawn"}
    assert b"secret" not in on_disk(store.folder)
    again = Store(store.folder.with_name("killed"))
    assert b"secret" not in on_disk(again.folder)
    again.close()


def test_a_transaction_that_cannot_be_ended_is_undone(store: Store) -> None:
    """As on a full disk: the next one works."""
    with pytest.raises(sqlite3.IntegrityError), store._writing():
        store._db.execute("PRAGMA defer_foreign_keys=ON")
        store._db.execute("INSERT INTO answers VALUES (9, 9, 'nobody', 'first', 1)")
    assert store.consent(1)["state"] == "trial" and not store.answers()


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("study.sqlite*")))


_ANSWERS_UNTIL_KILLED = """
import os, signal, sys
from ganaug.study.store import Store
store = Store(sys.argv[1])
state = store.consent(1)
for place in range(int(sys.argv[2])):
    store.answer(1, place, f"id-{place:05d}", "left" if "real" in state["trial"]["task"] else "same", 700)
    state = store.state(1)
    print(place, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_is_acknowledged_survives_sigkill(study: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _ANSWERS_UNTIL_KILLED, study, "7"], capture_output=True, text=True)
    assert killed.returncode == -9 and killed.stdout.split() == [str(n) for n in range(7)]
    store = Store(study)
    assert len(store.answers()) == 7 and store.state(1)["trial"]["place"] == 7
    assert store._all("PRAGMA synchronous") == [(2,)], "FULL: the log is flushed before an answer is acknowledged"
    assert store._all("PRAGMA journal_mode") == [("wal",)]
    store.close()


def test_what_is_no_study(tmp_path: Path, study: Path) -> None:
    with pytest.raises(UserInputError, match="holds no study"):
        Store(tmp_path)
    (tmp_path / "study.sqlite").write_bytes(b"something else, long enough to have a header" * 40)
    with pytest.raises(UserInputError, match="no database of a study"):
        Store(tmp_path)
    db = sqlite3.connect(study / "study.sqlite")
    db.execute("""UPDATE meta SET value = '"ganaug-study-9"' WHERE name = 'format'""")
    db.commit()
    db.close()
    with pytest.raises(UserInputError, match="format 'ganaug-study-9', expected 'ganaug-study-1'"):
        Store(study)


# The server


@pytest.fixture
def client(store: Store) -> Any:
    testclient = pytest.importorskip("fastapi.testclient")
    from ganaug.study.server import build_app

    return testclient.TestClient(build_app(store), base_url="http://127.0.0.1", raise_server_exceptions=False)


def bearer(store: Store, rater: int = 1) -> dict[str, str]:
    return {"Authorization": f"Bearer {store.tokens()[rater]}"}


def test_nothing_is_given_without_a_token(client: Any, store: Store) -> None:
    token = store.tokens()[1]
    tried = ["", "x", token[:-1], token + "x", token.swapcase(), "é" * 9, token[::-1]]
    name = next(path.name for path in (store.folder / "images").iterdir())
    for secret in tried:
        headers = {"Authorization": f"Bearer {secret}".encode()}
        for method, path in (("GET", "/api/state"), ("GET", f"/api/picture/{name}"), ("POST", "/api/consent")):
            answered = client.request(method, path, headers=headers)
            assert answered.status_code == 401 and answered.json() == {"detail": "this link is not known"}
    assert client.get("/api/state").status_code == 401
    assert client.get("/api/state", headers={"Authorization": f"Basic {token}"}).status_code == 401
    assert store.raters()[0]["consented"] == 0


def test_no_picture_before_consent_and_none_of_other_pairs(client: Any, store: Store) -> None:
    headers = bearer(store)
    place_0 = store._trial(1, 0)[1:]
    assert client.get(f"/api/picture/{place_0[0]}", headers=headers).status_code == 404
    trial = client.post("/api/consent", headers=headers).json()["trial"]
    assert (trial["left"], trial["right"]) == place_0
    for side in ("left", "right"):
        answered = client.get(f"/api/picture/{trial[side]}", headers=headers)
        assert answered.content == (store.folder / "images" / trial[side]).read_bytes()
        assert answered.headers["content-type"] == "image/png"
        assert not {"etag", "last-modified", "set-cookie"} & set(answered.headers)
    others = [*store._trial(1, 1)[1:], *store._trial(2, 0)[1:], "../study.sqlite", "..%2Fstudy.sqlite"]
    for name in set(others) - set(place_0):
        assert client.get(f"/api/picture/{name}", headers=headers).status_code == 404
    assert store._all("SELECT views FROM showings WHERE rater = 1 AND place = 0") == [(1,)]


def test_the_right_answer_is_never_sent(client: Any, store: Store) -> None:
    """All that a page gets of a pair: its place, its task and two names that mean nothing."""
    headers = bearer(store)
    state = client.post("/api/consent", headers=headers).json()
    for place in range(TOTAL):
        assert set(state) == {"state", "done", "total", "exposure_ms", "trial"}
        assert set(state["trial"]) == {"place", "task", "left", "right"}
        body = {"place": place, "id": f"id-{place:05d}", "choice": wrong_choice(store, 1, place), "ms": 800}
        answered = client.post("/api/answer", headers=headers, json=body)
        assert answered.status_code == 200
        state = answered.json()
    assert set(state) == {"state", "done", "total", "exposure_ms"}
    errors = [row["choice"] != row["answer"] for row in store.answers()]
    assert errors == [True] * TOTAL


def test_answers_over_http(client: Any, store: Store) -> None:
    headers = bearer(store)
    body = {"place": 0, "id": "id-00000", "choice": "left", "ms": 800}

    def post(**change: Any) -> int:
        return int(client.post("/api/answer", headers=headers, json={**body, **change}).status_code)

    assert post() == 409, "before consent"
    client.post("/api/consent", headers=headers)
    wrong = [{"ms": -1}, {"ms": "soon"}, {"id": "x"}, {"id": "x" * 65}, {"place": -1}, {"choice": "same"}]
    for change in [*wrong, {"place": 10**30}, {"ms": None}, {"choice": "first"}]:
        assert post(**change) in (409, 422), change
    assert post(id="x" * 9999) == 413
    odd = json.dumps({**body, "choice": "\ud800"}), "[]", "{", "[" * 2000, json.dumps({**body, "ms": float("inf")})
    for text in odd:
        told = client.post("/api/answer", headers={**headers, "Content-Type": "application/json"}, content=text)
        assert told.status_code in (400, 422) and len(told.text) < 100, "nothing of it is sent back"
    assert not store.answers()
    assert [post(), post(), post(id="id-11111")] == [200, 200, 409]
    assert post(place=1, id="id-22222", ms=10**15) == 200
    assert [row["ms"] for row in store.answers()] == [800, 24 * 60 * 60 * 1000]
    assert client.post("/api/withdraw", headers=headers).json() == {"state": "withdrawn"}
    assert client.get("/api/state", headers=headers).json() == {"state": "withdrawn"}
    assert not store.answers()


def test_every_answer_of_the_server_forbids_what_is_outside(client: Any, store: Store) -> None:
    paths = ("/", "/study.css", "/study.js", "/icon.svg", "/api/state", "/nothing", "/docs", "/openapi.json")
    for path in paths:
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "http" not in policy and "unsafe" not in policy
        assert headers["cache-control"] == "no-store" and headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
    for path in ("/nothing", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 404
    for path in paths[:3]:
        text = client.get(path).text
        assert not re.search(r"https?:|//\w+\.\w|@import|url\(", text), f"{path} asks for something outside"
    assert "style=" not in client.get("/").text and "onclick" not in client.get("/").text, "the policy forbids both"


def test_packets_go_out_at_once() -> None:
    """Nagle's algorithm against delayed acknowledgements would cost 40 ms a picture."""

    async def without_delay() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = listen("127.0.0.1", 0)
        async with await asyncio.start_server(greet, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            return await found

    assert asyncio.run(without_delay())


def test_other_host_names_are_refused(client: Any) -> None:
    assert client.get("/", headers={"Host": "127.0.0.1:8765"}).status_code == 200
    assert client.get("/", headers={"Host": "localhost:8765"}).status_code == 200
    assert client.get("/", headers={"Host": "[::1]:8765"}).status_code == 200, "as --host ::1 has it"
    for host in ("evil.example", "127.0.0.1.evil.example", "[::2]", "", "*"):
        assert client.get("/", headers={"Host": host}).status_code == 400, host


# The command line


def test_create_and_score(faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "consent.txt").write_text("Agreed?")
    out, told = tmp_path / "study", tmp_path / "figures.json"
    options = ["--edits", "fine", "--trials", "3", "--catch", "1", "--raters", "2", "--tasks", "same-person"]
    options += ["--exposure-ms", "500", "--consent", str(tmp_path / "consent.txt"), "--max-edits", "1"]
    options += ["--size", "20", "--match-detail", "--json", str(told)]
    command = ["study", "create", "--cache", str(faces.cache), "--images", str(faces.root), "--out", str(out)]
    assert main([*command, *options]) == 0
    figures = json.loads(told.read_text())
    assert (figures["trials"], figures["pictures"], figures["raters"]) == (4, 8, 2)
    store = Store(out)
    assert (store.meta["exposure_ms"], store.meta["consent"]) == (500, "Agreed?")
    assert store.meta["edits"] == ["fine"]
    store.close()
    capsys.readouterr()
    assert main(["study", "score", str(out), "--out", str(tmp_path / "scores.html")]) == 0
    shown = capsys.readouterr().out
    assert "2 invited" in shown and "too few answers: 0 of at least 20" in shown
    assert "too few answers" in (tmp_path / "scores.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "nowhere"], "nowhere holds no study"),
        (["serve", "nowhere"], "nowhere holds no study"),
        (["score", "STUDY", "--out", "scores.pdf"], "expected a name ending in .html"),
        (["serve", "STUDY", "--port", "99999"], "cannot listen at 127.0.0.1 port 99999"),
        (["serve", "STUDY", "--host", "192.0.2.1"], "cannot listen at 192.0.2.1"),
    ],
)
def test_mistakes_are_one_line(
    study: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["study", *[str(study) if a == "STUDY" else a for a in arguments]]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and out == ""


def test_without_fastapi(study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["study", "serve", str(study), "--port", "0"]) == 2
    assert "pip install 'ganaug[study]'" in capsys.readouterr().err


def test_photos_without_identity_and_groups(faces: Faces, tmp_path: Path) -> None:
    create_study(wrap(faces), tmp_path / "study", CONFIG)
    store = Store(tmp_path / "study")
    assert store.meta["persons_known"] is False
    assert {groups for (groups,) in store._all("SELECT groups FROM trials")} == {"{}"}
    store.close()
    assert attributes_of(faces)[0]["gender"] == "Female"
