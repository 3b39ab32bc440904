"""Hostile files: nothing in them runs, none takes long or much memory, and every refusal says which file and why."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from hostile import Case, watched
from hostile_archives import archives
from hostile_pickles import genuine, pickles


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def corpus(folder: Path) -> dict[str, Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about duplicate zip records, TorchScript, quantised tensors
        made = pickles(folder) | archives(folder)
    return {name + case.suffix: case for name, case in made.items()}


@pytest.fixture(scope="module")
def results(folder: Path, corpus: dict[str, Case]) -> list[dict[str, Any]]:
    for name, files in {"genuine": genuine(), "hostile": {name: case.data for name, case in corpus.items()}}.items():
        (folder / name).mkdir()
        for file_name, data in files.items():
            (folder / name / file_name).write_bytes(data)
    program = Path(__file__).with_name("hostile.py")
    done = subprocess.run(
        [sys.executable, program, folder], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_file_is_refused_with_its_reason_or_inert(
    folder: Path, corpus: dict[str, Case], results: list[dict[str, Any]]
) -> None:
    opened = {result["name"]: result["result"] for result in results[:-1]}
    assert opened.keys() == corpus.keys()
    assert len(corpus) >= 300
    wrong = {}
    for name, case in corpus.items():
        refusal = f"refused: {folder / 'hostile' / name}: "
        if case.reason is None:
            fits = opened[name].startswith("inert: ")
        else:
            reason = opened[name].removeprefix(refusal)
            fits = opened[name].startswith(refusal) and re.search(case.reason, reason) is not None
            fits = fits and len(reason) < 500 and "\n" not in reason and "weights_only=False" not in reason
        if not fits:
            wrong[name] = (case.reason, opened[name])
    assert not wrong


def test_nothing_runs(folder: Path, results: list[dict[str, Any]]) -> None:
    assert {result["name"]: result["seen"] for result in results[:-1] if result["seen"]} == {}
    assert not list(folder.glob("*.ran"))


def test_none_takes_long_or_much_memory(results: list[dict[str, Any]]) -> None:
    slowest = max(results[:-1], key=lambda result: result["seconds"])
    assert slowest["seconds"] < 2.0, slowest
    assert results[-1]["mb"] < 300


def test_the_payloads_are_no_duds(folder: Path, corpus: dict[str, Case], results: list[dict[str, Any]]) -> None:
    # Control: Python's own unpickler runs them. After the others, which look for the files that this leaves behind.
    armed = [name for name, case in corpus.items() if case.runs]
    assert len(armed) >= 25
    program = (
        "import pickle, sys, torch\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        pickle.load(open(path, 'rb'))\n"
        "    except Exception as error:\n"
        "        print(path, error)\n"
    )
    paths = [str(folder / "hostile" / name) for name in armed]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program, *paths], capture_output=True, text=True)
    ran = {path.stem for path in folder.glob("*.ran")}
    for path in folder.glob("*.ran"):
        path.unlink()
    assert ran == {Path(name).stem for name in armed}, done.stdout + done.stderr


@pytest.mark.parametrize(
    "harm",
    ["exec('1')", "__import__('this')", "open('/dev/null', 'w')", "__import__('os').system('true')"],
)
def test_the_watch_notices(harm: str) -> None:
    with watched() as seen:
        eval(harm)
    assert seen
