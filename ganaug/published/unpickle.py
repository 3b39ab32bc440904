"""A pickle machine that cannot run anything: opcodes from an allow-list, names from a table of inert builders.

Python's own unpicklers call what a file names. This one never imports: a name that a file asks for is looked up in a
table that the caller gives, and a name outside the table ends the reading. ``BUILD`` sets no attribute; it hands the
state to one of this package's own placeholders. Opcodes are decoded by :mod:`pickletools`, which only parses.

Everything is bounded by a :class:`Budget`: what a file makes in memory is at most a small multiple of its own size.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ganaug.errors import CheckpointError
from ganaug.published.limits import Budget, Source

Builder = Callable[..., Any]
# Full name (``module.name``) -> what stands in for it, or None if no checkpoint needs it.
LookUp = Callable[[str], Builder | None]

# Integers: the longest in a genuine file is the 80-bit magic number of torch's old format.
MAX_INT_BYTES = 16


@dataclass(frozen=True)
class Name:
    """A name that a file asked for, and what stands in for it. Nothing of that name is imported."""

    full: str
    builder: Builder = field(repr=False)


class Placeholder:
    """Something that a file fills by ``BUILD`` after making it: the only objects that accept one."""

    def __setstate__(self, state: Any) -> None:
        raise NotImplementedError


class Attributed(dict[Any, Any]):
    """An ``OrderedDict`` of the file. Its attributes (torch's ``_metadata``) are read over."""


def shown(text: str) -> str:
    """Text from a file in a message: ASCII, on one line, not long."""
    return ascii(text if len(text) <= 100 else text[:100] + "...")


def check_key(key: Any) -> Any:
    """A key of a dict or member of a set, if it is of a kind that can be hashed cheaply.

    Hashing a deep tuple overflows the C stack, and crafted large integers all land in one slot.
    """
    if isinstance(key, int) and abs(key) >= 1 << 60:
        raise CheckpointError("a dict key is an integer of more than 60 bits")
    if key is not None and not isinstance(key, str | int | float | bytes):
        raise CheckpointError(f"a dict key or set member is a {type(key).__name__}; expected a string or number")
    return key


class Machine:
    """Reads one pickle. Its methods are the opcodes.

    Args:
        source: Where it is; left behind its end.
        look_up: Finds the builder of a name.
        budget: What it may cost.
        persistent: What stands in for persistent ids; None refuses them.

    Attributes:
        names: Full names that the pickle asked for, with their builders.
        protocol: Its pickle protocol, once read.
    """

    def __init__(
        self,
        source: Source,
        look_up: LookUp,
        budget: Budget,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.source, self.look_up, self.budget, self.persistent = source, look_up, budget, persistent
        self.names: dict[str, Builder] = {}
        self.protocol = 0
        self.memo: dict[int, Any] = {}
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []

    def load(self) -> Any:
        """The value of the pickle.

        Raises:
            CheckpointError: For anything that checkpoints do not hold; the reason, without the file's name.
        """
        for opcode, argument, _ in pickletools.genops(self.source):  # type: ignore[arg-type]
            self.budget.step()
            kind = opcode.name
            if kind in _PLAIN:
                self.stack.append(argument)
            elif kind in _ACTIONS:
                try:
                    _ACTIONS[kind](self, argument)
                except (IndexError, KeyError) as error:
                    raise CheckpointError(f"damaged: {kind} has nothing to work on") from error
            elif kind != "STOP":
                raise CheckpointError(f"it uses the pickle opcode {kind}, which no checkpoint needs")
        if len(self.stack) != 1 or self.marked:
            raise CheckpointError("damaged: the pickle does not end with one value")
        return self.stack.pop()

    def begin(self, protocol: int) -> None:
        if not 2 <= protocol <= 5:
            raise CheckpointError(f"pickle protocol {protocol}; expected 2 to 5")
        self.protocol = protocol

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def integer(self, value: int) -> None:
        if value.bit_length() > 8 * MAX_INT_BYTES:
            raise CheckpointError(f"an integer of more than {MAX_INT_BYTES} bytes")
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def top(self, kind: type) -> Any:
        """The container on top of the stack, to be filled."""
        if not isinstance(self.stack[-1], kind):
            raise CheckpointError(f"damaged: a {type(self.stack[-1]).__name__} where a {kind.__name__} is filled")
        return self.stack[-1]

    def append(self, _: Any) -> None:
        item = self.stack.pop()
        self.top(list).append(item)

    def appends(self, _: Any) -> None:
        items = self.pop_mark()
        self.top(list).extend(items)

    def short_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.top(dict)[check_key(key)] = value

    def set_items(self, _: Any) -> None:
        items = self.pop_mark()
        target = self.top(dict)
        if len(items) % 2:
            raise CheckpointError("damaged: a dict key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[check_key(key)] = value

    def add_items(self, _: Any) -> None:
        items = self.pop_mark()
        self.top(set).update(map(check_key, items))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def look_up_line(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self._name(f"{module}.{name}"))

    def look_up_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise CheckpointError("damaged: a name that is not text")
        self.stack.append(self._name(f"{module}.{name}"))

    def _name(self, full: str) -> Name:
        self.budget.call()
        builder = self.names.get(full) or self.look_up(full)
        if builder is None:
            raise CheckpointError(f"it asks for {shown(full)}, which weights do not need; refused, nothing was run")
        self.names[full] = builder
        return Name(full, builder)

    def call(self, _: Any) -> None:
        """``REDUCE`` and ``NEWOBJ``: only what the table gave can be called, and only with a tuple."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or type(function) is not Name:
            raise CheckpointError(f"damaged: it calls a {type(function).__name__} with a {type(arguments).__name__}")
        self.budget.call()
        try:
            self.stack.append(function.builder(*arguments))
        except TypeError as error:
            raise CheckpointError(f"damaged: wrong arguments for {shown(function.full)}") from error

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Placeholder):
            target.__setstate__(state)
        elif not isinstance(target, Attributed) or not isinstance(state, dict):
            raise CheckpointError(f"it sets attributes of a {type(target).__name__}, which no checkpoint does")

    def refer(self, _: Any) -> None:
        if self.persistent is None:
            raise CheckpointError("it refers to something outside of the pickle (a persistent id)")
        self.stack.append(self.persistent(self.stack.pop()))


# Opcodes whose decoded argument is the value.
_PLAIN = frozenset(
    {"BININT", "BININT1", "BININT2", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING"}
    | {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)

# The others that protocols 2 to 5 write for data. Absent on purpose: everything of protocols 0 and 1, INST and OBJ,
# the extension codes, NEWOBJ_EX, buffers outside of the file, DUP and POP.
_ACTIONS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": Machine.begin,
    "FRAME": lambda machine, length: None,  # only says how much to read ahead
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "LONG1": Machine.integer,
    "LONG4": Machine.integer,
    "MARK": Machine.mark,
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "APPEND": Machine.append,
    "APPENDS": Machine.appends,
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.short_tuple(1),
    "TUPLE2": lambda machine, _: machine.short_tuple(2),
    "TUPLE3": lambda machine, _: machine.short_tuple(3),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "SETITEM": Machine.set_item,
    "SETITEMS": Machine.set_items,
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "ADDITEMS": Machine.add_items,
    "FROZENSET": lambda machine, _: machine.push(set(map(check_key, machine.pop_mark()))),
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "GLOBAL": Machine.look_up_line,
    "STACK_GLOBAL": Machine.look_up_stack,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.call,
    "BUILD": Machine.build,
    "BINPERSID": Machine.refer,
}
