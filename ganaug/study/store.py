"""The database of a study: pictures, trials, raters and answers. What it has acknowledged, a killed server keeps."""

import hmac
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ganaug.errors import GanaugError, UserInputError
from ganaug.study.tasks import CHOICES, REAL_OR_GENERATED

DATABASE, IMAGES = "study.sqlite", "images"
FORMAT = "ganaug-study-1"
MAX_ID = 64  # characters of the id that a page gives an answer
MAX_MS = 24 * 60 * 60 * 1000  # a response time; longer ones are cut to a day
_BUSY_SECONDS = 10.0  # how long to wait for another process that writes

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE pictures (name TEXT PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, synthetic INTEGER NOT NULL,
  recipe TEXT NOT NULL);
CREATE TABLE trials (trial INTEGER PRIMARY KEY, task TEXT NOT NULL, kind TEXT NOT NULL,
  first TEXT NOT NULL REFERENCES pictures(name), second TEXT NOT NULL REFERENCES pictures(name),
  answer TEXT NOT NULL, edits TEXT NOT NULL, groups TEXT NOT NULL);
CREATE TABLE raters (rater INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, consented TEXT, withdrawn TEXT);
CREATE TABLE showings (rater INTEGER NOT NULL REFERENCES raters(rater), place INTEGER NOT NULL,
  trial INTEGER NOT NULL REFERENCES trials(trial), swapped INTEGER NOT NULL, views INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (rater, place));
CREATE TABLE answers (rater INTEGER NOT NULL, place INTEGER NOT NULL, id TEXT NOT NULL, choice TEXT NOT NULL,
  ms INTEGER NOT NULL, PRIMARY KEY (rater, place), UNIQUE (rater, id),
  FOREIGN KEY (rater, place) REFERENCES showings(rater, place));
"""

Row = Sequence[Any]


class Conflict(GanaugError):
    """An answer, or a wish, that does not fit where the rater is: the page should ask for the state again."""


class Store:
    """A study's database, for several threads; another process may read it meanwhile.

    Every write is on the disk when its method returns: SQLite's write-ahead log with ``synchronous=FULL``
    (https://sqlite.org/pragma.html#pragma_synchronous).

    Args:
        folder: Of the study.

    Raises:
        UserInputError: If there is no study, or one of another format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / DATABASE
        if not path.is_file():
            raise UserInputError(
                f"{folder} holds no study ({DATABASE}): give the folder that `ganaug study create` made"
            )
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._empty_log()  # where a killed server has left answers that were to be erased
            self.meta = {name: json.loads(value) for name, value in self._all("SELECT name, value FROM meta")}
        except (sqlite3.DatabaseError, ValueError) as error:
            self._db.close()
            raise UserInputError(f"{path}: no database of a study, or a damaged one: {error}") from error
        if self.meta.get("format") != FORMAT:
            self._db.close()
            raise UserInputError(
                f"{path}: format {self.meta.get('format')!r}, expected {FORMAT!r}; make the study again"
            )

    @staticmethod
    def create(
        folder: Path,
        meta: Mapping[str, Any],
        pictures: Sequence[Row],
        trials: Sequence[Row],
        tokens: Sequence[str],
        showings: Sequence[Row],
    ) -> None:
        """Makes the database.

        Args:
            folder: Of the study; there already.
            meta: JSON-able: ``consent``, ``exposure_ms``, and what was used.
            pictures: Rows as the table's columns.
            trials: Likewise.
            tokens: One per rater, numbered from 1.
            showings: (rater, place, trial, swapped).
        """
        path = folder / DATABASE
        path.touch(mode=0o600, exist_ok=False)  # SQLite gives its log the same mode
        db = sqlite3.connect(path)
        try:
            db.executescript(_SCHEMA)
            values = {"format": FORMAT, **meta}
            db.executemany("INSERT INTO meta VALUES (?, ?)", [(n, json.dumps(v)) for n, v in values.items()])
            db.executemany("INSERT INTO pictures VALUES (?, ?, ?, ?, ?)", pictures)
            db.executemany("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?)", trials)
            db.executemany("INSERT INTO raters (rater, token) VALUES (?, ?)", list(enumerate(tokens, start=1)))
            db.executemany("INSERT INTO showings (rater, place, trial, swapped) VALUES (?, ?, ?, ?)", showings)
            db.commit()
        finally:
            db.close()

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._db.close()

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        return self._db.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction: all of it is on the disk afterwards, or nothing."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended it already
                    self._db.execute("ROLLBACK")
                raise

    def tokens(self) -> dict[int, str]:
        """Rater -> token, of those who have not withdrawn."""
        with self._lock:
            return dict(self._all("SELECT rater, token FROM raters WHERE withdrawn IS NULL ORDER BY rater"))

    def rater_of(self, token: str) -> int | None:
        """Whose token it is; takes as long for every token that is not."""
        with self._lock:
            known = self._all("SELECT rater, token FROM raters")
        found = None
        for rater, secret in known:
            if hmac.compare_digest(str(secret).encode(), token.encode(errors="surrogatepass")):
                found = int(rater)
        return found

    def state(self, rater: int) -> dict[str, Any]:
        """What a rater's page shows now. Nothing in it says which answer is right."""
        with self._lock:
            return self._state(rater)

    def _state(self, rater: int) -> dict[str, Any]:
        consented, withdrawn = self._all("SELECT consented, withdrawn FROM raters WHERE rater = ?", (rater,))[0]
        if withdrawn is not None:
            return {"state": "withdrawn"}
        if consented is None:
            return {"state": "consent", "consent": self.meta["consent"]}
        total = self._all("SELECT count(*) FROM showings WHERE rater = ?", (rater,))[0][0]
        place = self._next_place(rater)
        counted = {"done": place, "total": total, "exposure_ms": self.meta["exposure_ms"]}
        if place == total:
            return {"state": "done", **counted}
        task, left, right = self._trial(rater, place)
        return {"state": "trial", **counted, "trial": {"place": place, "task": task, "left": left, "right": right}}

    def _next_place(self, rater: int) -> int:
        # Answers are taken in order alone, so that their number is the next place.
        return int(self._all("SELECT count(*) FROM answers WHERE rater = ?", (rater,))[0][0])

    def _trial(self, rater: int, place: int) -> tuple[str, str, str]:
        """Task, and the names of the left and the right picture."""
        query = "SELECT task, first, second, swapped FROM showings NATURAL JOIN trials WHERE rater = ? AND place = ?"
        task, first, second, swapped = self._all(query, (rater, place))[0]
        return (task, second, first) if swapped else (task, first, second)

    def consent(self, rater: int) -> dict[str, Any]:
        """Notes that a rater has agreed, and when; returns the state."""
        with self._writing():
            query = "UPDATE raters SET consented = ? WHERE rater = ? AND consented IS NULL AND withdrawn IS NULL"
            self._db.execute(query, (_now(), rater))
        return self.state(rater)

    def picture(self, rater: int, name: str) -> Path | None:
        """File of a picture, if the rater's trial shows it now; counts that it was looked at."""
        with self._writing():
            state = self._state(rater)
            trial = state.get("trial", {})
            if name not in (trial.get("left"), trial.get("right")):
                return None
            if name == trial["left"]:
                query = "UPDATE showings SET views = views + 1 WHERE rater = ? AND place = ?"
                self._db.execute(query, (rater, trial["place"]))
        return self.folder / IMAGES / name

    def answer(self, rater: int, place: int, answer_id: str, choice: str, ms: int) -> dict[str, Any]:
        """Stores an answer; the same one again is acknowledged and counts once.

        Args:
            rater: Who.
            place: Of the trial in the rater's order.
            answer_id: The page's own name for this answer.
            choice: Of :data:`~ganaug.study.tasks.CHOICES`.
            ms: Response time.

        Returns:
            The state after it.

        Raises:
            Conflict: If that trial was answered otherwise, or is not the next one.
            UserInputError: For a choice that the task does not have.
        """
        with self._writing():
            state = self._state(rater)
            if state["state"] not in ("trial", "done"):
                raise Conflict(f"no answer is expected: {state['state']}")
            known = self._all("SELECT place FROM answers WHERE rater = ? AND id = ?", (rater, answer_id))
            if known:
                if known[0][0] != place:
                    raise Conflict(f"the answer {answer_id!r} was given to pair {known[0][0]}, not {place}")
                return state
            if state["state"] == "done" or place != state["trial"]["place"]:
                raise Conflict(f"pair {place} is not the next one")
            task = state["trial"]["task"]
            if choice not in CHOICES[task]:
                raise UserInputError(f"{task} is answered by {' or '.join(CHOICES[task])}, got {choice!r}")
            if task == REAL_OR_GENERATED:
                query = "SELECT swapped FROM showings WHERE rater = ? AND place = ?"
                swapped = self._all(query, (rater, place))[0][0]
                choice = "first" if (choice == "left") != bool(swapped) else "second"
            values = (rater, place, answer_id, choice, min(ms, MAX_MS))
            self._db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", values)
            state = self._state(rater)
        return state

    def withdraw(self, rater: int) -> dict[str, Any]:
        """Erases a rater's answers: overwrites where they stood in the database, and empties its log.

        Raises:
            sqlite3.OperationalError: If another process reads the log and keeps it: to be asked for again.
        """
        with self._writing():
            self._db.execute("DELETE FROM answers WHERE rater = ?", (rater,))
            self._db.execute("DELETE FROM showings WHERE rater = ?", (rater,))
            query = "UPDATE raters SET consented = NULL, withdrawn = coalesce(withdrawn, ?) WHERE rater = ?"
            self._db.execute(query, (_now(), rater))
        with self._lock:
            if not self._empty_log():
                raise sqlite3.OperationalError("another process keeps the log of the database")
            return self._state(rater)

    def _empty_log(self) -> bool:
        """Moves what the write-ahead log holds into the database; whether nothing is left of it."""
        busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def raters(self) -> list[dict[str, Any]]:
        """Each rater: number, whether consented and withdrawn, answers given, trials to answer."""
        query = (
            "SELECT rater, consented IS NOT NULL AS consented, withdrawn IS NOT NULL AS withdrawn,"
            " (SELECT count(*) FROM answers WHERE answers.rater = raters.rater) AS answers,"
            " (SELECT count(*) FROM showings WHERE showings.rater = raters.rater) AS total FROM raters ORDER BY rater"
        )
        return self._dicts(query)

    def answers(self) -> list[dict[str, Any]]:
        """Each answer with its trial and what was right: one entry per column of the query."""
        query = (
            "SELECT rater, trial, task, kind, edits, groups, choice, answer, ms, views"
            " FROM answers NATURAL JOIN showings NATURAL JOIN trials ORDER BY rater, place"
        )
        rows = self._dicts(query)
        return [{**row, "edits": json.loads(row["edits"]), "groups": json.loads(row["groups"])} for row in rows]

    def _dicts(self, query: str) -> list[dict[str, Any]]:
        with self._lock:
            cursor = self._db.execute(query)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
