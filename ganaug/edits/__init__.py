"""Edits by name. Each declares what it ``touches``, so that a policy can refuse what it was asked to preserve."""

from collections.abc import Callable, Sequence

from ganaug.edits.directions import Direction
from ganaug.edits.discovery import PrincipalComponents, principal_components
from ganaug.edits.interpolate import Interpolate
from ganaug.edits.names import EDIT_NAMES, NAMED_TOUCHES, PART_OF, part_of
from ganaug.edits.part_jitter import PartJitter
from ganaug.edits.parts import PART_TOUCHES, PartSwap, part_swap
from ganaug.edits.resample import Resample
from ganaug.edits.span import Span
from ganaug.edits.style_mixing import StyleMixing
from ganaug.edits.table import Directions, EditTable, given_table, table_of
from ganaug.edits.target import aim, parse_target
from ganaug.interfaces import Edit, Generator, UserInputError

# What the rows of a StyleGAN carry (arXiv 1812.04948, section 3.1, figure 3): coarse rows pose, face shape and hair
# style; middle rows features and expression; fine rows colours and light. Shares of num_ws, from 0 to 1.
ROW_RANGES: dict[str, tuple[float, float]] = {"coarse": (0.0, 0.3), "middle": (0.3, 0.6), "fine": (0.6, 1.0)}
ROW_TOUCHES: dict[str, frozenset[str]] = {
    "coarse": frozenset({"identity", "pose", "shape", "hair", "age", "gender", "glasses", "expression"}),
    "middle": frozenset({"identity", "expression", "hair", "background", "age"}),  # measured: faces64.md
    "fine": frozenset({"lighting", "skin", "background"}),
}
NUM_PRINCIPAL_COMPONENTS = 8
# In standard deviations, by where the directions come from. A photo may lie one or two out already, and two more along
# the directions of photos is a face in the dark or in a flash (seen on sheets of faces64).
PRINCIPAL_STRENGTH = {"mapping": (1.0, 2.5), "prior": (0.75, 1.5)}

# Words that ``touches`` and ``preserve`` are made of; a word that no edit could touch is taken for a slip of the pen.
ATTRIBUTES: frozenset[str] = frozenset().union(*ROW_TOUCHES.values(), *PART_TOUCHES.values(), *NAMED_TOUCHES.values())

# What a dataset uses when nobody names edits; those that touch something preserved are left out.
DEFAULT_EDITS = ("middle", "fine", "pca1")
DEFAULT_PARTS = ("hair", "background", "cloth")  # where latents have rows for parts


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
        if generator.latent_spec.parts:
            raise UserInputError(
                f"edit {range_name!r} mixes resolutions, and the rows of this generator are parts of a face; "
                f"expected one of {', '.join(edits_for(generator))}"
            )
        rows = rows_of(range_name, generator.latent_spec.num_ws)
        return StyleMixing(range_name, rows, ROW_TOUCHES[range_name])

    return build


def _principal(index: int) -> Callable[[Generator], Edit]:
    def build(generator: Generator) -> Edit:
        found = principal_components(generator, NUM_PRINCIPAL_COMPONENTS)
        if index >= len(found.std):
            raise UserInputError(f"this generator has {len(found.std)} principal directions, so there is no pca{index}")
        rows = range(generator.latent_spec.num_ws)
        # Nothing is known about what an unlabelled direction changes, so it counts as changing everything.
        touches = frozenset({"identity", *ROW_TOUCHES["coarse"], *ROW_TOUCHES["middle"], *ROW_TOUCHES["fine"]})
        strength = PRINCIPAL_STRENGTH["mapping" if getattr(generator, "prior", None) is None else "prior"]
        return Direction(f"pca{index}", found.components[index], float(found.std[index]), rows, touches, strength)

    return build


def _jitter(swapped: str) -> Callable[[Generator], Edit]:
    def build(generator: Generator) -> Edit:
        if swapped not in (generator.latent_spec.parts or ROW_RANGES):
            raise UserInputError(
                f"edit 'jitter_{swapped}' draws {swapped!r} anew, which this generator does not have; expected one of "
                f"{', '.join(edits_for(generator))}"
            )
        (like,) = build_edits([swapped], generator)
        rows = generator.latent_spec.parts.get(swapped) or rows_of(swapped, generator.latent_spec.num_ws)
        return PartJitter.of_rows(f"jitter_{swapped}", generator, rows, like.touches)

    return build


EDITS: dict[str, Callable[[Generator], Edit]] = {
    "coarse": _mixing("coarse"),
    "middle": _mixing("middle"),
    "fine": _mixing("fine"),
    **{f"pca{i}": _principal(i) for i in range(NUM_PRINCIPAL_COMPONENTS)},
    **{part: part_swap(part) for part in PART_TOUCHES},
    **{f"jitter_{name}": _jitter(name) for name in (*ROW_RANGES, *PART_TOUCHES)},
    "interpolate": lambda generator: Interpolate(),
    "resample": Resample,
}


def edits_for(generator: Generator) -> list[str]:
    """Names of the edits that a generator can have.

    Those of its edit table; its parts, or else ranges of its rows; directions; and others.
    """
    parts = generator.latent_spec.parts
    own = list(parts) or list(ROW_RANGES)
    named = [
        name for name in EDIT_NAMES if name not in own and (part_of(name, parts) or name in table_of(generator).edits)
    ]
    directions = [f"pca{i}" for i in range(NUM_PRINCIPAL_COMPONENTS)]
    first = [*own, *named] if parts else [*named, *own]
    return [*first, *directions, *(f"jitter_{name}" for name in own), "interpolate", "resample"]


def default_edits(generator: Generator) -> list[str]:
    """Names of the edits that a dataset uses when nobody names any."""
    parts = generator.latent_spec.parts
    if parts:
        return [part for part in DEFAULT_PARTS if part in parts]
    return list(table_of(generator).defaults or DEFAULT_EDITS)


def build_edits(edits: Sequence[str | Edit], generator: Generator, directions: Directions | None = None) -> list[Edit]:
    """Turns names into edits for a generator; objects pass through.

    Args:
        edits: Names (:func:`edits_for`), targets such as ``"age=60"``, and objects.
        generator: Whose latents are edited.
        directions: More edits whose names may be used, before all others: a file of ``ganaug directions``, or objects.

    Raises:
        CheckpointError: For a file of directions that is damaged or of another generator.
        UserInputError: For an unknown name, an edit that this generator cannot have, an object that is no
            :class:`Edit`, or a name twice.
    """
    given = given_table(directions, generator)
    built: list[Edit] = []
    for edit in edits:
        if isinstance(edit, str):
            asked = parse_target(edit)
            found = _named(edit if asked is None else asked.base, generator, given)
            built.append(found if asked is None else aim(asked, found))
        elif isinstance(edit, Edit):
            built.append(edit)
        else:
            raise UserInputError(f"an edit is a name or an object with the Edit protocol, got {type(edit).__name__}")
    names = [edit.name for edit in built]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserInputError(f"edits named more than once: {', '.join(twice)}")
    return built


def _named(name: str, generator: Generator, given: EditTable) -> Edit:
    """The edit of a name.

    Raises:
        UserInputError: If the generator cannot have it.
    """
    if (own := given.build(name)) is not None:
        return own
    parts = generator.latent_spec.parts
    if name in parts:
        return part_swap(name)(generator)
    if (part := part_of(name, parts)) is not None:
        return PartSwap(name, parts[part], PART_TOUCHES[part])
    table = table_of(generator)
    if (bundled := table.build(name)) is not None:
        return bundled
    expected = ", ".join([*given.edits, *edits_for(generator)])
    if (reason := given.unsupported.get(name) or table.unsupported.get(name)) is not None:
        raise UserInputError(f"edit {name!r} cannot be had with this generator: {reason}; expected one of {expected}")
    if name in EDITS and name not in EDIT_NAMES:
        return EDITS[name](generator)
    if name in EDIT_NAMES:
        has = f"the parts {', '.join(parts)}" if parts else "no parts (a SemanticStyleGAN has)"
        needs = f"a part {PART_OF[name]!r} or " if name in PART_OF else ""
        raise UserInputError(
            f"edit {name!r} needs {needs}a direction of this generator, which has {has} and no direction of that name: "
            f"make one with `ganaug directions` and give its file as directions=FILE, or use one of {expected}"
        )
    raise UserInputError(f"unknown edit {name!r}: expected one of {expected}, or an Edit object")


__all__ = [
    "EDITS",
    "EDIT_NAMES",
    "Direction",
    "EditTable",
    "PartSwap",
    "PrincipalComponents",
    "Span",
    "StyleMixing",
    "build_edits",
    "default_edits",
    "edits_for",
    "principal_components",
    "rows_of",
    "table_of",
]
