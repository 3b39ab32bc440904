"""The names that genuine checkpoints ask for, and what this package gives them instead.

The names are those met in files of StyleGAN2-ADA, StyleGAN3, PTI, rosinality, SemanticStyleGAN, pSp, e4e and ReStyle,
as numpy 1 and 2, torch 1.6 to 2.x and pickle protocols 2 to 5 write them. ``module_src``, the source text that NVIDIA's
own loader executes, is never looked at.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from ganaug.errors import CheckpointError
from ganaug.published.inert import (
    STORAGE_DTYPES,
    Array,
    ArrayDType,
    DataName,
    Options,
    TorchModule,
    check_sizes,
    make_array,
    make_tensor,
)
from ganaug.published.limits import Budget
from ganaug.published.tree import InertModule
from ganaug.published.unpickle import Attributed, Builder, LookUp, check_key, shown

# Names whose beginning depends on where a project keeps NVIDIA's folders.
PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
EASY_DICTS = ("dnnlib.util.EasyDict", "dnnlib.EasyDict")

# A class name, a device, one part of a path.
MAX_TEXT = 1024


def easy_dict() -> dict[str, Any]:
    """What NVIDIA's ``EasyDict`` becomes."""
    return {}


def empty_bytes() -> bytes:
    """How protocol 2 writes ``b""``."""
    return b""


def look_up_with(budget: Budget, extra: Mapping[str, Builder] | None = None) -> LookUp:
    """Finds builders for one file: fresh ones, so that no file can change them for the next.

    Args:
        budget: Pays for what they make.
        extra: More builders, by full name.
    """
    table = _table(budget) | dict(extra or {})

    def look_up(full: str) -> Builder | None:
        if full in table:
            return table[full]
        if full.startswith(("dnnlib.tflib.", "tfutil.")):
            raise CheckpointError(
                f"a TensorFlow pickle ({shown(full)}), whose networks are source code; convert it once with "
                "stylegan2-ada-pytorch's legacy.py (--source=OLD.pkl --dest=NEW.pkl) and open the new file"
            )
        if f".{full}".endswith(f".{PERSISTENT}"):
            return table[PERSISTENT]
        if f".{full}".endswith(tuple(f".{name}" for name in EASY_DICTS)):
            return table[EASY_DICTS[0]]
        if full.startswith("torch.nn.modules."):
            return type("TorchModule", (TorchModule,), {"class_name": full.rpartition(".")[2]})
        return None

    return look_up


def _short_text(text: Any) -> str:
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise CheckpointError(f"damaged: expected a text of at most {MAX_TEXT} characters")
    return text


def _table(budget: Budget) -> dict[str, Builder]:
    def scalar(dtype: Any, data: Any) -> Any:
        return make_array(data, dtype, (), "C").item()

    def reconstruct(kind: Any, shape: Any, code: Any) -> Array:
        return Array()

    def from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
        return make_array(data, dtype, shape, order)

    def encode(text: Any, encoding: Any) -> bytes:
        # How protocol 2 writes bytes.
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise CheckpointError("damaged: bytes that are not written as latin1 text")
        budget.spend(len(text))
        return text.encode("latin1")

    def make_set(items: Any = ()) -> set[Any]:
        if not isinstance(items, list | tuple | set):
            raise CheckpointError("damaged: a set that is not made from a list")
        budget.spend(64 * len(items))
        return set(map(check_key, items))

    def ordered_dict(items: Any = ()) -> Attributed:
        if not isinstance(items, list | tuple):
            raise CheckpointError("damaged: an OrderedDict that is not made from a list of pairs")
        budget.spend(128 * len(items))
        return Attributed((check_key(key), value) for key, value in items)

    def device(kind: Any, index: Any = None) -> str:
        return _short_text(kind) if index is None else f"{_short_text(kind)}:{int(index)}"

    def path(*parts: Any) -> str:
        return str(PurePosixPath(*(_short_text(part) for part in parts[:64])))

    def tensor(
        storage: Any, offset: Any, sizes: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
    ) -> Tensor:
        if hooks or metadata:
            raise CheckpointError("a tensor with hooks or metadata, which no checkpoint needs")
        made = make_tensor(storage, offset, check_sizes(sizes), check_sizes(strides))
        budget.spend(made.numel() * made.element_size())  # a stride of 0 makes much out of little
        return made

    def parameter(data: Any, requires_grad: Any, hooks: Any) -> Tensor:
        if not isinstance(data, Tensor) or hooks:
            raise CheckpointError("damaged: a parameter that holds no tensor, or has hooks")
        return data

    def module(meta: Any) -> InertModule:
        if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("state"), dict):
            raise CheckpointError("damaged: a persistent module without a state")
        return InertModule(_short_text(meta.get("class_name")), meta["state"])

    table: dict[str, Builder] = {
        "collections.OrderedDict": ordered_dict,
        "argparse.Namespace": Options,
        EASY_DICTS[0]: easy_dict,
        PERSISTENT: module,
        "_codecs.encode": encode,
        "torch.Size": check_sizes,
        "torch.device": device,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": parameter,
        "numpy.dtype": ArrayDType,
        "numpy.ndarray": Array,
    }
    for module_name in ("__builtin__", "builtins"):
        table |= {f"{module_name}.{name}": make_set for name in ("set", "frozenset")}
        table[f"{module_name}.bytes"] = empty_bytes
    for module_name in ("numpy.core", "numpy._core"):
        table[f"{module_name}.multiarray.scalar"] = scalar
        table[f"{module_name}.multiarray._reconstruct"] = reconstruct
        table[f"{module_name}.numeric._frombuffer"] = from_buffer
    for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
        table[f"pathlib.{name}"] = path
    values = [f"torch.{name}" for name in STORAGE_DTYPES] + [f"torch.cuda.{name}" for name in STORAGE_DTYPES]
    values += ["torch.storage.UntypedStorage", "torch.bfloat16"]
    for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"):
        values += [f"torch.{name}", f"numpy.{name}"]
    return table | {name: DataName(name) for name in values}
