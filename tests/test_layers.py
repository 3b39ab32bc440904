"""Imports point to a lower layer or into their own folder. Walks the syntax trees, imports nothing."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ganaug"

LAYERS = {
    "errors": 0,
    "interfaces": 0,
    "rng": 0,
    "terminal": 0,
    "layers": 1,
    "latents": 1,
    "precision": 1,
    "alias_free": 1,
    "published": 1,
    "known_weights": 1,
    "download": 1,
    "checkpoints": 1,
    "lmdb_verify": 1,
    "lmdb_pool": 1,
    "cache_keys": 1,
    "cache_header": 1,
    "cache_format": 1,
    "cache_failures": 1,
    "cache": 1,
    "provenance": 1,
    "batches": 2,
    "batch_size": 1,
    "read_ahead": 1,
    "pending": 2,
    "shards": 2,
    "chunks": 3,
    "sampling": 1,
    "schedules": 1,
    "strengths": 1,
    "partners": 1,
    "min_quality": 1,
    "sheet": 1,
    "charts": 1,
    "page": 1,
    "synthetic": 1,
    "content_credentials": 2,
    "model_facts": 2,
    "user_functions": 1,
    "faces": 1,
    "features": 2,
    "embedders": 2,
    "lpips": 2,
    "classical": 2,
    "classical_ops": 2,
    "jpeg": 1,
    "degrade": 2,
    "traits": 2,
    "chip_framing": 2,
    "generators": 2,
    "edits": 2,
    "inversion": 3,
    "training": 3,
    "metrics": 3,
    "ratios": 3,
    "policy": 3,
    "extras": 3,
    "latent_reader": 3,
    "gate": 3,
    "labelled_codes": 3,
    "preservation": 3,
    "relabel": 3,
    "dataset": 3,
    "cached_faces": 3,
    "gatekeeper": 4,
    "augment": 4,
    "stage": 4,
    "loader": 5,
    "precompute": 5,
    "recheck": 5,
    "inspection": 5,
    "preview": 5,
    "strength_sheets": 5,
    "export": 5,
    "study": 5,
    "explain": 5,
    "explain_file": 5,
    "explain_page": 5,
    "cards": 5,
    "card_text": 5,
    "data_cards": 5,
    "tuning": 5,
    "tuned_files": 5,
    "demo": 5,
    "convert": 5,
    "curate": 5,
    "directions": 5,
    "fetch": 5,
    "commands": 6,
    "cli": 6,
    "cli_directions": 6,
    "cli_export": 6,
    "cli_explain": 6,
    "cli_inspect": 6,
    "cli_precompute": 6,
    "cli_study": 6,
    "cli_tuning": 6,
    "cli_evaluate": 6,
    "evaluation": 5,
    "audit": 5,
    "bootstrap": 1,
    "intervals": 1,
    "fairness": 1,
    "readout": 3,
    "cli_audit": 6,
}

# Helpers of one module in a file of their own, and steps inside one layer that DESIGN.md lists together.
SAME_LAYER = {
    ("study", "export"),
    ("interfaces", "errors"),
    ("lmdb_pool", "lmdb_verify"),
    ("cache", "lmdb_pool"),
    ("cache", "cache_format"),
    ("cache", "cache_header"),
    ("cache", "cache_keys"),
    ("cache", "cache_failures"),
    ("cache_failures", "cache_keys"),
    ("cache_format", "cache_header"),
    ("cache_format", "cache_keys"),
    ("cache_header", "cache_keys"),
    ("published", "alias_free"),
    ("published", "known_weights"),
    ("checkpoints", "published"),
    ("checkpoints", "known_weights"),
    ("faces", "user_functions"),
    ("synthetic", "faces"),
    ("classical", "classical_ops"),
    ("policy", "ratios"),
    ("dataset", "policy"),
    ("dataset", "ratios"),
    ("dataset", "extras"),
    ("dataset", "latent_reader"),
    ("preservation", "latent_reader"),
    ("labelled_codes", "latent_reader"),
    ("dataset", "gate"),
    ("augment", "gatekeeper"),
    ("stage", "gatekeeper"),
    ("dataset", "preservation"),
    ("dataset", "relabel"),
    ("preservation", "policy"),
    ("training", "inversion"),
    ("training", "metrics"),
    ("stage", "augment"),
    ("demo", "precompute"),
    ("demo", "preview"),
    ("strength_sheets", "preview"),
    ("cli", "commands"),
    ("cli", "cli_directions"),
    ("cli", "cli_inspect"),
    ("explain", "export"),
    ("explain", "inspection"),
    ("explain", "recheck"),
    ("explain_file", "explain"),
    ("explain_file", "export"),
    ("explain_page", "explain"),
    ("explain_page", "inspection"),
    ("cards", "card_text"),
    ("cards", "data_cards"),
    ("cards", "export"),
    ("data_cards", "card_text"),
    ("data_cards", "export"),
    ("data_cards", "inspection"),
    ("cli", "cli_export"),
    ("cli", "cli_explain"),
    ("cli_export", "cli_inspect"),
    ("cli_explain", "cli_export"),
    ("commands", "cli_export"),
    ("cli", "cli_precompute"),
    ("bootstrap", "intervals"),
    ("cli", "cli_study"),
    ("cli_study", "cli_export"),
    ("cli", "cli_tuning"),
    ("cli", "cli_evaluate"),
    ("evaluation", "preview"),
    ("evaluation", "strength_sheets"),
    ("cli", "cli_audit"),
    ("cli_audit", "cli_export"),
    ("cli_audit", "cli_inspect"),
    ("cli_evaluate", "cli_export"),
    ("tuned_files", "recheck"),
    ("tuning", "tuned_files"),
    ("cli_precompute", "cli_inspect"),
    ("inspection", "recheck"),
    ("page", "charts"),
    ("page", "synthetic"),
}

# GANAugmentedDataset.loader and .collate reach up for what they return; inside the methods only.
UPWARD_INSIDE_FUNCTIONS = {("dataset", "loader")}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Rooms that a file imports, and whether the import stands inside a function or under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    late = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.If)
        for node in ast.walk(outer)
    }
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [
                f"{node.module}.{alias.name}" if node.module == "ganaug" else str(node.module) for alias in node.names
            ]
        for name in names:
            parts = name.split(".")
            if parts[0] == "ganaug" and len(parts) > 1 and not parts[1].startswith("__"):
                found.append((parts[1], id(node) in late))
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    assert here in LAYERS, f"{path.name} is in no layer: add it to tests/test_layers.py and CONTRIBUTING.md"
    for target, late in imports(path):
        if target == here or (here, target) in SAME_LAYER or (late and (here, target) in UPWARD_INSIDE_FUNCTIONS):
            continue
        assert LAYERS[target] < LAYERS[here], f"{path.name} (layer {LAYERS[here]}) imports {target} ({LAYERS[target]})"


def test_every_layer_entry_exists() -> None:
    rooms = {room(path) for path in FILES}
    assert set(LAYERS) - rooms <= {"classical_ops"}


def test_nothing_draws_from_global_generators() -> None:
    """No ``np.random``, ``random`` or ``torch.manual_seed`` in the package (house rule 2)."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                text = ast.unparse(node)
                assert not text.startswith(("np.random", "numpy.random", "random.")), f"{path}: {text}"
                assert text not in ("torch.manual_seed", "torch.seed"), f"{path}: {text}"


def test_files_are_short() -> None:
    """One idea a file; the limit is generous because docstrings count."""
    for path in FILES:
        lines = len(path.read_text().splitlines())
        assert lines <= 420, f"{path} has {lines} lines: split it"
