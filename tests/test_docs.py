"""What the documentation shows is executed: examples, and the training lines of the README."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ganaug

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_example_runs(path: Path, tmp_path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 80
    command = [sys.executable, str(path)]
    env = {**os.environ, "PYTHONWARNINGS": "ignore", "TMPDIR": str(tmp_path)}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_readme_training_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's twelve lines, on a folder of drawn faces and with the device that is there."""
    from ganaug.cli import main
    from ganaug.demo import draw_faces

    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("ann", "bob")):
        draw_faces("faces64", tmp_path / "faces" / name, count=3, seed=number)
    assert main(["precompute", "faces", "--cache", "faces.lmdb", "--steps", "3"]) == 0
    code, policy = (block for block in blocks("python") if "GANAugmentedDataset" in block)
    assert 8 <= len([line for line in code.splitlines() if line.strip()]) <= 12
    scope: dict[str, object] = {}
    if not torch.cuda.is_available():
        code = code.replace('device="cuda"', 'device="cpu"')
    exec(compile(code, "README.md", "exec"), scope)
    train = scope["train"]
    assert isinstance(train, ganaug.GANAugmentedDataset)
    assert sum(train.counts.values()) == 6 * 2
    exec(compile(policy, "README.md", "exec"), scope)
    train = scope["train"]
    assert isinstance(train, ganaug.GANAugmentedDataset)
    assert train.policy.preserve == ["identity", "gender"]
    assert sum(len(images) for images, _ in train.loader(batch_size=4)) == 6


def test_readme_commands_can_be_parsed() -> None:
    """Every ``ganaug`` line that the README shows is one that the command line understands."""
    from ganaug.cli import build_parser

    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("ganaug ")]
    assert len(lines) >= 5
    for line in lines:
        build_parser().parse_args(line.split()[1:])


def test_readme_commands_are_those_of_ci() -> None:
    text = (ROOT / "README.md").read_text()
    assert "<!-- command: test -->" in text
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("python3")]
    assert any("ganaug demo" in line for line in commands)
    assert any("pytest" in line for line in commands)


def test_public_names_are_documented() -> None:
    for name in ganaug.__all__:
        value = getattr(ganaug, name)
        assert isinstance(value, dict) or (value.__doc__ and len(value.__doc__) > 20), name


def test_changelog_names_the_version() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
