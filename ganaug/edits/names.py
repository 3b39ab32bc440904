"""Names of edits that mean the same with every generator, and what an edit of that name may change.

A generator with parts has those that are parts of its own. The others come from a generator's edit table, see
:mod:`ganaug.edits.table`.
"""

from collections.abc import Mapping, Sequence

# Name -> what it may change. What looks change with what is named (an older skin, a smile that narrows the eyes) is
# part of it. "race" is the group that annotators of photos assign, by skin among other things.
NAMED_TOUCHES: dict[str, frozenset[str]] = {
    "hair": frozenset({"hair", "background", "gender"}),
    "lighting": frozenset({"lighting", "skin", "background"}),
    "expression": frozenset({"expression", "mouth", "eyes"}),
    "age": frozenset({"age", "identity", "shape", "skin", "hair", "eyes", "brows", "mouth"}),
    "gender": frozenset({"gender", "identity", "shape", "hair", "makeup", "eyes", "brows", "mouth", "lighting"}),
    "pose": frozenset({"pose", "shape", "background", "hair"}),
    "glasses": frozenset({"glasses", "identity", "eyes", "brows"}),
    "skin": frozenset({"skin", "identity", "race", "lighting"}),
    "background": frozenset({"background", "neck", "cloth"}),
    "makeup": frozenset({"makeup", "gender", "mouth", "eyes", "skin"}),
    "eyes": frozenset({"eyes", "identity", "expression", "race", "makeup"}),
    "brows": frozenset({"brows", "identity", "expression", "gender", "makeup"}),
    "nose": frozenset({"nose", "identity", "race"}),
    "mouth": frozenset({"mouth", "identity", "expression", "makeup"}),
    "ears": frozenset({"ears", "earring"}),
}
EDIT_NAMES = tuple(NAMED_TOUCHES)

# Name -> the part of a generator with parts (SemanticStyleGAN) that it swaps.
PART_OF: dict[str, str] = {
    "hair": "hair",
    "skin": "face",
    "eyes": "eye",
    "brows": "eyebrow",
    "nose": "nose",
    "mouth": "mouth",
    "ears": "ear",
    "glasses": "glasses",
    "background": "background",
}


def part_of(name: str, parts: Mapping[str, Sequence[int]]) -> str | None:
    """The part that a name stands for, of those that a generator has; None if it has none of that name.

    Example:
        >>> part_of("eyes", {"eye": (1,), "hair": (2,)}), part_of("age", {"eye": (1,)})
        ('eye', None)
    """
    part = PART_OF.get(name)
    return part if part in parts else None
