"""Edits by name. Each declares what it ``touches``, so that a policy can refuse what it was asked to preserve."""

from collections.abc import Callable, Sequence

from ganaug.edits.directions import Direction
from ganaug.edits.discovery import PrincipalComponents, principal_components
from ganaug.edits.style_mixing import StyleMixing
from ganaug.interfaces import Edit, Generator, UserInputError

# What the rows of a StyleGAN carry (arXiv 1812.04948, section 3.1, figure 3): coarse rows pose, face shape and hair
# style; middle rows features and expression; fine rows colours and light. Shares of num_ws, from 0 to 1.
ROW_RANGES: dict[str, tuple[float, float]] = {"coarse": (0.0, 0.3), "middle": (0.3, 0.6), "fine": (0.6, 1.0)}
ROW_TOUCHES: dict[str, frozenset[str]] = {
    "coarse": frozenset({"identity", "pose", "shape", "hair", "age", "gender", "glasses", "expression"}),
    "middle": frozenset({"identity", "expression", "hair", "background", "age"}),  # 0.67 median cosine, see faces64.md
    "fine": frozenset({"lighting", "skin", "background"}),
}
NUM_PRINCIPAL_COMPONENTS = 8

# Words that ``touches`` and ``preserve`` are made of; a word that no edit could touch is taken for a slip of the pen.
ATTRIBUTES: frozenset[str] = frozenset().union(*ROW_TOUCHES.values()) | {"makeup"}


# What a dataset uses when nobody names edits; those that touch something preserved are left out.
DEFAULT_EDITS = ("middle", "fine", "pca1")


def rows_of(range_name: str, num_ws: int) -> list[int]:
    """Rows of a named range for a generator with ``num_ws`` rows.

    Example:
        >>> rows_of("fine", 10)
        [6, 7, 8, 9]
    """
    low, high = ROW_RANGES[range_name]
    return list(range(round(low * num_ws), round(high * num_ws)))


def _mixing(range_name: str) -> Callable[[Generator], Edit]:
    def build(generator: Generator) -> Edit:
        rows = rows_of(range_name, generator.latent_spec.num_ws)
        return StyleMixing(range_name, rows, ROW_TOUCHES[range_name])

    return build


def _principal(index: int) -> Callable[[Generator], Edit]:
    def build(generator: Generator) -> Edit:
        found = principal_components(generator, NUM_PRINCIPAL_COMPONENTS)
        rows = range(generator.latent_spec.num_ws)
        # Nothing is known about what an unlabelled direction changes, so it counts as changing everything.
        touches = frozenset({"identity", *ROW_TOUCHES["coarse"], *ROW_TOUCHES["middle"], *ROW_TOUCHES["fine"]})
        return Direction(f"pca{index}", found.components[index], float(found.std[index]), rows, touches)

    return build


EDITS: dict[str, Callable[[Generator], Edit]] = {
    "coarse": _mixing("coarse"),
    "middle": _mixing("middle"),
    "fine": _mixing("fine"),
    **{f"pca{i}": _principal(i) for i in range(NUM_PRINCIPAL_COMPONENTS)},
}


def build_edits(edits: Sequence[str | Edit], generator: Generator) -> list[Edit]:
    """Turns names into edits for a generator; objects pass through.

    Raises:
        UserInputError: For an unknown name, an object that is no :class:`Edit`, or a name twice.
    """
    built: list[Edit] = []
    for edit in edits:
        if isinstance(edit, str):
            if edit not in EDITS:
                raise UserInputError(f"unknown edit {edit!r}: expected one of {', '.join(EDITS)}, or an Edit object")
            built.append(EDITS[edit](generator))
        elif isinstance(edit, Edit):
            built.append(edit)
        else:
            raise UserInputError(f"an edit is a name or an object with the Edit protocol, got {type(edit).__name__}")
    names = [edit.name for edit in built]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserInputError(f"edits named more than once: {', '.join(twice)}")
    return built


__all__ = ["EDITS", "Direction", "PrincipalComponents", "StyleMixing", "build_edits", "principal_components", "rows_of"]
