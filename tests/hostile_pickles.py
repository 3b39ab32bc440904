"""Hostile pickles: NVIDIA's kind, and torch's older format; see ``hostile.py``."""

import pickle
import struct
from pathlib import Path

import torch
from hostile import Case
from opcodes import (
    EMPTY_HOOKS,
    array,
    blob,
    call,
    called,
    legacy,
    name,
    number,
    numbers,
    pairs,
    persistent,
    pickled,
    storage,
    tensor,
    text,
)
from published_files import EasyDict, Persistent, numpy_scalar, nvidia_names, torch_file

UNKNOWN = "which weights do not need; refused, nothing was run"

# Names that run something, write something, or that scanners of pickles are known to miss. None is ever called here:
# the reader has to stop at the name.
DANGEROUS = (Path(__file__).parent / "hostile_names.txt").read_text().split()


def genuine() -> dict[str, bytes]:
    """Small files as the projects write them, one of each container."""
    state = {"layer.weight": torch.randn(3, 4), "layer.bias": torch.randn(3), "w_avg": torch.randn(4).half()}
    attributes = {"gain": numpy_scalar(0.5), "filter": numpy_scalar(1.0).reshape(1), "kept": {"a", "b"}, "none": None}
    module = Persistent("G", state, attributes, EasyDict(z_dim=4))
    found = {}
    with nvidia_names():
        for protocol in (2, 3, 4, 5):
            found[f"nvidia{protocol}.pkl"] = pickle.dumps({"G_ema": module, "G": None}, protocol)
    found["pti.pt"] = torch_file(module)
    found["zip.pt"] = torch_file({"g_ema": state, "step": 3})
    found["legacy.pt"] = torch_file({"g_ema": state, "step": 3}, legacy=True)
    return found


def pickles(folder: Path) -> dict[str, Case]:
    """Name -> case. A payload that runs creates ``<name>.ran`` in ``folder``."""
    cases: dict[str, Case] = {}
    cases |= _running(folder)
    cases |= {f"name_{full}": Case(pickled(call(full, text("x"))), UNKNOWN) for full in DANGEROUS}
    cases |= _state_setting() | _malformed() | _bombs() | _storages() | _arrays() | _legacy(folder)
    return cases


def _running(folder: Path) -> dict[str, Case]:
    """Payloads that Python's own unpickler runs."""

    def touch(case: str) -> str:
        return f"touch {folder / case}.ran"

    def python(case: str) -> str:
        return f"open({str(folder / case) + '.ran'!r}, 'w')"

    def system(case: str) -> bytes:
        return call("os.system", text(touch(case)))

    def made(case: str) -> bytes:
        return text(str(folder / case) + ".ran")

    bodies: dict[str, bytes] = {
        "os_system": system("os_system"),
        "posix_system": call("posix.system", text(touch("posix_system"))),
        "eval": call("builtins.eval", text(python("eval"))),
        "exec": call("builtins.exec", text(python("exec"))),
        "exec_globals": call("builtins.exec", text(python("exec_globals")), b"}"),
        "python2_eval": call("__builtin__.eval", text(python("python2_eval"))),
        "getattr_chain": called(
            call("builtins.getattr", call("builtins.__import__", text("os")), text("system")),
            text(touch("getattr_chain")),
        ),
        "subprocess_call": call("subprocess.call", b"](" + text("touch") + made("subprocess_call") + b"e"),
        "popen": call("subprocess.Popen", b"](" + text("touch") + made("popen") + b"e"),
        "popen_wait": called(
            call(
                "builtins.getattr",
                call("subprocess.Popen", b"](" + text("touch") + made("popen_wait") + b"e"),
                text("wait"),
            )
        ),
        "open_to_write": call("io.open", made("open_to_write"), text("w")),
        "file_io": call("_io.FileIO", made("file_io"), text("w")),
        "obj": b"(" + name("os.system") + text(touch("obj")) + b"o",
        "partial": called(call("functools.partial", name("os.system"), text(touch("partial")))),
        "map_list": call(
            "builtins.list", call("builtins.map", name("os.system"), b"](" + text(touch("map_list")) + b"e")
        ),
        "path_touch": called(call("builtins.getattr", call("pathlib.PosixPath", made("path_touch")), text("touch"))),
        "nested_loads": call("pickle.loads", blob(pickled(system("nested_loads")))),
        "storage_value": call("torch.storage._load_from_bytes", blob(legacy(system("storage_value")))),
        "storage_header": call("torch.storage._load_from_bytes", blob(pickled(system("storage_header")))),
        "storage_keys": call("torch.storage._load_from_bytes", blob(legacy(b"N", pickled(system("storage_keys"))))),
        "in_dict": b"}" + text("g_ema") + system("in_dict") + b"s",
        "as_dict_key": b"}" + system("as_dict_key") + b"Ns",
        "discarded": system("discarded") + b"0N",
        "memoised": b"cos\nsystem\nq\x070h\x07(" + text(touch("memoised")) + b"tR",
    }
    cases = {key: Case(pickled(body), UNKNOWN, runs=True) for key, body in bodies.items()}
    later = {
        "dotted": text("os") + text("path.os.system") + b"\x93(" + text(touch("dotted")) + b"tR",
        "stacked": text("posix") + text("system") + b"\x93(" + text(touch("stacked")) + b"tR",
        "in_frame": b"\x95" + struct.pack("<Q", 3) + b"N0N" + b"0" + system("in_frame"),
        "after_pop": name("os.system") + b"0" + system("after_pop"),
    }
    cases |= {key: Case(pickled(body, protocol=4), f"{UNKNOWN}|opcode POP", runs=True) for key, body in later.items()}
    cases["inst"] = Case(pickled(b"(" + text(touch("inst")) + b"ios\nsystem\n"), "opcode INST", runs=True)
    cases["unicode"] = Case(pickled(b"cos\nsystem\n(V" + touch("unicode").encode() + b"\ntR"), UNKNOWN, runs=True)
    cases["protocol0"] = Case(b"cos\nsystem\n(S'" + touch("protocol0").encode() + b"'\ntR.", "begins with", runs=True)
    return cases


def _state_setting() -> dict[str, Case]:
    """``BUILD`` and what objects are made of: the ways to change something that already exists."""
    evil = pairs(__class__=text("x"), __setstate__=text("x"), __reduce__=text("x"), __init__=text("x"))
    slots = b"N" + pairs(__defaults__=b")", __code__=text("x")) + b"\x86"
    module = "torch_utils.persistence._reconstruct_persistent_obj"
    namespace = name("argparse.Namespace") + b")\x81"
    cases = {
        "build_slots_on_function": (name(module) + slots + b"b", "sets attributes of a Name"),
        "build_dict_on_function": (name(module) + evil + b"b", "sets attributes of a Name"),
        "build_on_storage_function": (name("torch.storage._load_from_bytes") + slots + b"b", "sets attributes"),
        "build_on_class": (name("collections.OrderedDict") + evil + b"b", "sets attributes of a Name"),
        "build_on_module": (persistent(b"}") + pairs(class_name=text("x")) + b"b", "sets attributes of a InertModule"),
        "build_on_list": (b"]" + evil + b"b", "sets attributes of a list"),
        "build_on_text": (text("x") + evil + b"b", "sets attributes of a str"),
        "build_on_plain_dict": (b"}" + evil + b"b", "sets attributes of a dict"),
        "build_on_tensor": (tensor(storage()) + evil + b"b", "sets attributes of a Tensor"),
        "build_slots_on_dict": (EMPTY_HOOKS + slots + b"b", "sets attributes of a Attributed"),
        "build_dict_on_dict": (EMPTY_HOOKS + evil + b"b", None),
        "build_slots_on_namespace": (namespace + slots + b"b", "names are not text"),
        "build_numbers_on_namespace": (namespace + b"}K\x01Nsb", "names are not text"),
        "build_dunder_on_namespace": (namespace + evil + b"b", None),
        "namespace_with_arguments": (name("argparse.Namespace") + b"(" + text("x") + b"t\x81", "wrong arguments"),
        "newobj_function": (name("os.system") + b"(" + text("x") + b"t\x81", UNKNOWN),
        "newobj_ex": (name("collections.OrderedDict") + b")}\x92", "opcode NEWOBJ_EX"),
        "call_text": (called(text("os.system"), text("x")), "it calls a str"),
        "call_result": (called(called(name("collections.OrderedDict")), text("x")), "it calls a Attributed"),
        "call_module": (called(persistent(b"}"), text("x")), "it calls a InertModule"),
        "call_dtype": (call("torch.float32", text("x")), "it calls 'torch.float32'"),
        "call_storage_class": (call("torch.FloatStorage", number(1 << 40)), "it calls 'torch.FloatStorage'"),
        "call_with_list": (name("collections.OrderedDict") + b"]R", "calls a Name with a list"),
        "extension1": (b"\x82\x01", "opcode EXT1|not a valid|damaged"),
        "extension2": (b"\x83\x01\x01", "opcode EXT2"),
        "extension4": (b"\x84\x01\0\0\0", "opcode EXT4"),
        "persistent_id": (text("x") + b"Q", "persistent id"),
        "persistent_text_id": (b"Pos.system\n", "opcode PERSID"),
        "next_buffer": (b"\x97", "opcode NEXT_BUFFER"),
        "module_source": (persistent(pairs(x=text("import os"))), None),
        "module_of_kind_function": (persistent(b"}", kind="function"), "without a state"),
        "module_without_state": (persistent(b"N"), "without a state"),
        "module_meta_list": (call(module, b"]"), "without a state"),
        "module_meta_twice": (call(module, b"}", b"}"), "wrong arguments"),
        "module_class_number": (persistent(b"}", number(3)), "expected a text"),
        "module_class_huge": (persistent(b"}", text("x" * 2_000_000)), "expected a text"),
        "module_number_keys": (persistent(b"}K\x01Ns"), None),
        "module_parameters_list": (persistent(pairs(_parameters=b"]", _modules=text("x"))), None),
        "torch_module_slots": (
            name("torch.nn.modules.linear.Linear") + b")\x81" + slots + b"b",
            "the state of a 'Linear'",
        ),
        "torch_module": (name("torch.nn.modules.x.__reduce__") + b")\x81" + evil + b"b", None),
        "torch_module_arguments": (call("torch.nn.modules.linear.Linear", number(1 << 40)), "wrong arguments"),
        "device_text": (call("torch.device", text("x" * 5000)), "expected a text"),
        "size_of_text": (call("torch.Size", text("x")), "shape"),
        "tensorflow": (call("dnnlib.tflib.network.Network"), "TensorFlow pickle.*legacy.py"),
    }
    return {key: Case(pickled(body), reason) for key, (body, reason) in cases.items()}


def _malformed() -> dict[str, Case]:
    """Pickles that no pickler writes."""
    bodies: dict[str, tuple[bytes, str | None]] = {
        "name_of_numbers": (b"K\x01K\x02\x93", "a name that is not text"),
        "name_of_bytes": (blob(b"os") + blob(b"system") + b"\x93", "a name that is not text"),
        "name_without_end": (b"c" + b"x" * 1_000_000, "a name of more than"),
        "name_not_utf8": (b"c\xff\xfe\n\xff\n", "damaged"),
        "name_with_lines": (text("os\nx") + text("a\r\nb") + b"\x93", UNKNOWN),
        "name_huge": (text("x" * 3_000_000) + text("y") + b"\x93", UNKNOWN),
        "text_not_utf8": (b"X\x02\0\0\0\xff\xfe", "damaged"),
        "empty_stack": (b"", "does not end with one value"),
        "two_values": (b"NN", "does not end with one value"),
        "open_mark": (b"(N", "does not end with one value"),
        "pop_nothing": (b"R", "has nothing to work on"),
        "tuple_of_nothing": (b"\x87", "has nothing to work on"),
        "memo_of_nothing": (b"q\x01", "has nothing to work on"),
        "memo_missing": (b"j\xff\xff\xff\xff", "has nothing to work on"),
        "marks_missing": (b"t", "has nothing to work on"),
        "dict_odd": (b"}(Nu", "a dict key without a value"),
        "append_to_tuple": (b")Na", "a tuple where a list"),
        "add_to_list": (b"](N\x90", "a list where a set"),
        "set_item_of_list": (b"]NNs", "a list where a dict"),
        "set_of_lists": (b"\x8f(]\x90", "dict key or set member is a list"),
        "set_call_of_lists": (call("builtins.set", b"](]e"), "dict key or set member is a list"),
        "dict_key_list": (b"}]Ns", "dict key or set member is a list"),
        "ordered_dict_of_numbers": (call("collections.OrderedDict", b"](K\x01e"), "wrong arguments"),
        "bytes_by_rot13": (call("_codecs.encode", text("x"), text("rot13")), "not written as latin1"),
        "bytes_by_zlib": (call("_codecs.encode", text("x"), text("zlib_codec")), "not written as latin1"),
        "unknown_opcode": (b"\xfe", "damaged"),
        "no_end": (b"N", "damaged"),
        "long_negative_size": (b"\x8b\xff\xff\xff\xff", "damaged"),
        "duplicate": (b"N2", "opcode DUP"),
        "path_with_nul": (call("pathlib.PosixPath", text("a\0b")), None),
    }
    cases = {key: Case(pickled(body), reason) for key, (body, reason) in bodies.items()}
    cases["no_end"] = Case(b"\x80\x02N", "cut short|damaged")
    cases["only_protocol"] = Case(b"\x80\x02", "cut short|damaged")
    cases["protocol_255"] = Case(pickled(b"N", protocol=255), "begins with")
    cases["protocol_twice"] = Case(pickled(b"\x80\xffN"), "pickle protocol 255")
    cases["behind_the_end"] = Case(pickled(b"N") + b"cos\nsystem\n", "bytes behind its end")
    return cases


def _bombs() -> dict[str, Case]:
    """Small files that would take much memory, much time or the C stack."""
    sevens = b"(" + b"h\x00" * 10 + b"t"
    doubling = b"](Ne" + b"q\x00" + b"".join(sevens + b"q\x00" for _ in range(30))
    lists = b"](Ne" + b"q\x00" + b"".join(b"](" + b"h\x00" * 10 + b"eq\x00" for _ in range(30))
    deep_tuple = b")" + b"\x85" * 200_000
    tuples = b")" + b"\x85" * 50_000  # deep enough to overflow the C stack when hashed
    modules = persistent(b"}")
    for _ in range(300):
        modules = persistent(pairs(_modules=pairs(x=modules)))
    # 2**61 - 1 is the modulus of Python's hash of integers: all of these would land in one slot.
    colliding = b"}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(1, 30_000)) + b"u"
    encode = name("_codecs.encode") + b"q\x01"
    many = b"](" + b"K\x01" * 100_000 + b"e" + b"q\x00"
    bodies: dict[str, tuple[bytes, str | None]] = {
        "deep_tuple": (deep_tuple, "nest more than"),
        "deep_list": (b"]" * 50_000 + b"a" * 49_999, "nest more than"),
        "deep_dict": (b"}" + b"N}" * 100_000 + b"s" * 100_000, "nest more than"),
        "deep_tuple_as_key": (b"}" + tuples + b"Ns", "dict key or set member is a tuple"),
        "deep_tuple_in_set": (b"\x8f(" + tuples + b"\x90", "dict key or set member is a tuple"),
        "deep_tuple_in_set_call": (call("builtins.set", b"](" + tuples + b"e"), "set member is a tuple"),
        "deep_tuple_as_name": (tuples + text("x") + b"\x93", "a name that is not text"),
        "deep_tuple_as_function": (called(tuples), "it calls a tuple"),
        "deep_tuple_in_tuple": (b"(" + tuples + b"t", "nest more than"),
        "deep_marks": (b"(" * 100_000 + b"t" * 100_000, "nest more than"),
        "deep_modules": (modules, "nest more than"),
        "tuple_bomb": (b"](" + doubling + b"e", "more than 2000000 values"),
        "list_bomb": (b"](" + lists + b"e", "more than 2000000 values"),
        "set_in_itself": (b"\x8fq\x00(h\x00\x90", "set member is a set"),
        "list_in_itself": (b"]q\x00h\x00a", "holds itself"),
        "dict_in_itself": (b"}q\x00" + text("x") + b"h\x00s", "holds itself"),
        "namespace_in_itself": (
            name("argparse.Namespace") + b")\x81q\x00}" + text("x") + b"h\x00sb",
            "holds itself",
        ),
        "module_in_itself": (
            b"}q\x00" + text("_modules") + persistent(b"h\x00") + b"s",
            "holds itself",
        ),
        "colliding_keys": (colliding, "more than 60 bits"),
        "memo_index_huge": (b"Nr\xff\xff\xff\x7f", None),
        "bytes8_huge": (b"\x8e" + struct.pack("<Q", 1 << 60), "bytes are claimed"),
        "bytes4_huge": (b"B" + struct.pack("<I", 0xFFFFFFFF), "bytes are claimed"),
        "text8_huge": (b"\x8d" + struct.pack("<Q", 1 << 40), "bytes are claimed"),
        "text4_huge": (b"X" + struct.pack("<I", 0xFFFFFFF0), "bytes are claimed"),
        "bytearray_huge": (b"\x96" + struct.pack("<Q", 1 << 40), "bytes are claimed"),
        "long4_huge": (b"\x8b" + struct.pack("<i", 0x7FFFFFFF), "bytes are claimed"),
        "long4_million": (b"\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000, "an integer of more than"),
        "long1_255": (b"\x8a\xff" + b"\x7f" * 255, "an integer of more than"),
        "frame_huge": (b"\x95" + struct.pack("<Q", 1 << 62) + b"N", None),
        "frame_short": (b"\x95" + struct.pack("<Q", 1) + text("longer than the frame"), None),
        "many_opcodes": (b"N0" * 1_000_000 + b"N", "opcode POP"),
        "many_values": (b"](" + b"K\x01" * 900_000 + b"e", "pickle opcodes"),
        "many_calls": (b"](" + b"ccollections\nOrderedDict\n)R" * 60_000 + b"e", "names and objects"),
        "many_names": (b"](" + b"ctorch\nfloat32\n" * 200_000 + b"e", "names and objects"),
        "copies_of_bytes": (
            b"](" + text("x" * 1_000_000) + b"q\x00" + (encode + b"(h\x00" + text("latin1") + b"tR") * 2000 + b"e",
            "claim more than 4 times",
        ),
        "copies_of_sets": (
            many + b"(" + b"".join(call("builtins.set", b"h\x00") for _ in range(2000)) + b"t\x86",
            "claim more than 4 times",
        ),
        "copies_of_dicts": (
            b"](" + b"K\x01N\x86" * 50_000 + b"eq\x00("
            + call("collections.OrderedDict", b"h\x00") * 2000 + b"t\x86",
            "claim more than 4 times",
        ),
        "copies_of_arrays": (
            blob(bytes(1_000_000)) + b"q\x00(" + b"".join(
                call("numpy.core.numeric._frombuffer", b"h\x00", FLOATS, numbers(250_000), text("C"))
                for _ in range(1000)
            ) + b"t\x86",
            "claim more than 4 times",
        ),
        "many_dims": (call("torch.Size", numbers(*[1] * 99)), "a shape is not"),
    }  # fmt: skip
    return {key: Case(pickled(body, protocol=5), reason) for key, (body, reason) in bodies.items()}


def _storages() -> dict[str, Case]:
    """Lies about storages and tensors."""
    bad = "lies outside of its storage"
    once = call("torch.storage._load_from_bytes", blob(storage()))
    shared = blob(storage()) + b"q\x00" + call("torch.storage._load_from_bytes", b"h\x00")
    load = "torch.storage._load_from_bytes"
    bodies: dict[str, tuple[bytes, str | None]] = {
        "storage_of_text": (call(load, text("x")), "not bytes of its own"),
        "storage_empty": (call(load, blob(b"")), "damaged|cut short"),
        "storage_two_arguments": (call(load, blob(b""), b"N"), "wrong arguments"),
        "storage_pickle": (call(load, blob(pickled(b"N"))), "damaged|cut short"),
        "storage_zip": (call(load, blob(torch_file(torch.ones(3)))), "damaged|opcode"),
        "storage_twice": (shared + call(load, b"h\x00") + b"\x86", "not bytes of its own"),
        "storage_of_tensor": (call(load, blob(torch_file(torch.ones(3), legacy=True))), "where a storage is expected"),
        "storage_of_dict": (call(load, blob(legacy(b"}"))), "a dict where a storage is expected"),
        "storage_in_storage": (call(load, blob(legacy(once))), UNKNOWN),
        "storage_numel_lie": (call(load, blob(storage(4, claim=1 << 40))), "4 numbers, where 1099511627776"),
        "storage_numel_negative": (call(load, blob(storage(4, claim=-1))), "without a name or a size"),
        "storage_both_lie": (call(load, blob(storage(4).replace(b"J\4\0\0\0", b"J\0\0\0\x40"))), "where 1073741824"),
        "storage_dtype_lie": (call(load, blob(storage(4, "DoubleStorage"))), "bytes are claimed"),
        "storage_dtype_smaller": (call(load, blob(storage(4, "HalfStorage"))), "8 bytes behind its end"),
        "storage_quantised": (call(load, blob(storage(4, "QInt32Storage"))), UNKNOWN),
        "storage_complex": (call(load, blob(storage(4, "ComplexFloatStorage"))), UNKNOWN),
        "storage_class_function": (
            call(load, blob(storage().replace(name("torch.FloatStorage"), name("torch.float32")))),
            "a storage of type",
        ),
        "storage_untyped": (call(load, blob(storage(4, "UntypedStorage")[:-12])), "refuses it"),
        "storage_cut": (call(load, blob(storage()[:-1])), "bytes are claimed"),
        "storage_longer": (call(load, blob(storage() + b"x")), "1 bytes behind its end"),
        "storage_big_endian": (call(load, blob(legacy(b"N", little=b"\x89"))), "big-endian"),
        "storage_endian_name": (call(load, blob(legacy(b"N", little=name("os.system")))), UNKNOWN),
        "storage_keys_other": (
            call(load, blob(storage().replace(b"](" + text("0") + b"e", b"](" + text("1") + b"e"))),
            "not those that its tensors use",
        ),
        "storage_keys_twice": (
            call(load, blob(storage().replace(b"](" + text("0") + b"e", b"](" + text("0") * 2 + b"e"))),
            "not those that its tensors use",
        ),
        "storage_in_tree": (once, "a value of type Storage"),
        "tensor_sizes_huge": (tensor(storage(), sizes=numbers(1 << 40)), bad),
        "tensor_sizes_overflow": (
            tensor(storage(), sizes=numbers(1 << 33, 1 << 33), strides=numbers(0, 0)),
            "a shape of",
        ),
        "tensor_sizes_overflow_empty": (
            tensor(storage(), sizes=numbers(0, 1 << 40, 1 << 40), strides=numbers(1, 1, 1)),
            "a shape of",
        ),
        "tensor_sizes_negative": (tensor(storage(), sizes=numbers(-1)), "integers from 0 up"),
        "tensor_sizes_float": (tensor(storage(), sizes=b"G" + struct.pack(">d", 4.0) + b"\x85"), "integers from 0 up"),
        "tensor_sizes_bool": (tensor(storage(), sizes=b"\x88\x85"), "integers from 0 up"),
        "tensor_sizes_number": (tensor(storage(), sizes=number(4)), "a shape is not a tuple"),
        "tensor_sizes_long": (tensor(storage(), sizes=numbers(*[1] * 70), strides=numbers(*[1] * 70)), "at most 8"),
        "tensor_sizes_more": (tensor(storage(), sizes=numbers(2, 2)), "a stride for every size"),
        "tensor_strides_huge": (tensor(storage(), strides=numbers(1 << 47)), bad),
        "tensor_strides_negative": (tensor(storage(), strides=numbers(-1)), "integers from 0 up"),
        "tensor_expanded": (tensor(storage(), sizes=numbers(1 << 38), strides=numbers(0)), "claim more than 4 times"),
        "tensor_expanded_often": (
            b"(" + b"".join(tensor(storage(), sizes=numbers(100_000), strides=numbers(0)) for _ in range(100)) + b"t",
            "claim more than 4 times",
        ),
        "tensor_offset_behind": (tensor(storage(), number(1)), bad),
        "tensor_offset_huge": (tensor(storage(), number(1 << 62)), bad),
        "tensor_offset_negative": (tensor(storage(), number(-1)), "an offset"),
        "tensor_offset_bool": (tensor(storage(), b"\x89"), "an offset"),
        "tensor_hooks": (tensor(storage(), number(0), numbers(4), numbers(1), b"}K\x01Ns"), "with hooks"),
        "tensor_metadata": (
            tensor(storage(), number(0), numbers(4), numbers(1), EMPTY_HOOKS, pairs(neg=b"\x88")),
            "with hooks or metadata",
        ),
        "tensor_of_bytes": (tensor(text("x")), "without a storage"),
        "tensor_of_class": (tensor(name("torch.FloatStorage")), "without a storage"),
        "parameter_of_text": (
            call("torch._utils._rebuild_parameter", text("x"), b"\x88", EMPTY_HOOKS),
            "holds no tensor",
        ),
        "parameter_hooks": (
            call("torch._utils._rebuild_parameter", tensor(storage()), b"\x88", b"}K\x01Ns"),
            "has hooks",
        ),
    }
    return {key: Case(pickled(body), reason) for key, (body, reason) in bodies.items()}


def _dtype(code: str = "f4", order: str = "<", subtype: bytes = b"N") -> bytes:
    state = b"(" + number(3) + text(order) + subtype + b"NN" + number(-1) * 2 + number(0) + b"tb"
    return call("numpy.dtype", text(code), b"\x89", b"\x88") + state


FLOATS = _dtype()


def _arrays() -> dict[str, Case]:
    """Arrays and scalars of numpy."""
    scalar = "numpy.core.multiarray.scalar"
    eight = blob(bytes(8))
    bodies: dict[str, tuple[bytes, str | None]] = {
        "array_objects": (array(_dtype("O8", "|"), b"](NNe"), "numpy dtype 'O8'"),
        "array_list": (array(FLOATS, b"](NNe"), "not of plain numbers"),
        "array_text_dtype": (array(text("f4"), eight), "not of plain numbers"),
        "array_records": (array(_dtype("f4", subtype=text("f8")), eight), "an array of records"),
        "array_void": (array(_dtype("V8", "|"), eight), "numpy dtype 'V8'"),
        "array_unicode": (array(_dtype("U1"), eight), "numpy dtype 'U1'"),
        "array_dtype_code": (array(_dtype("f4,f4"), eight), "numpy dtype 'f4,f4'"),
        "array_dtype_number": (call("numpy.dtype", number(3)), "numpy dtype '3'"),
        "array_order": (array(_dtype("f4", "x"), eight), "the state of a numpy dtype"),
        "array_short": (array(FLOATS, blob(bytes(7))), r"shape \(2,\), but with 7 bytes"),
        "array_half_made": (
            call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), numbers(0), blob(b"b")),
            "a value of type Array",
        ),
        "array_state": (call("numpy.ndarray") + b"}b", "the state of a numpy array"),
        "array_call": (call("numpy.ndarray", numbers(1 << 40)), "wrong arguments"),
        "array_huge": (
            call("numpy.core.numeric._frombuffer", eight, FLOATS, numbers(1 << 46), text("C")),
            "but with 8",
        ),
        "array_negative": (call("numpy.core.numeric._frombuffer", eight, FLOATS, numbers(-2), text("C")), "from 0 up"),
        "array_layout": (call("numpy.core.numeric._frombuffer", eight, FLOATS, numbers(2), text("X")), "plain numbers"),
        "scalar_object": (call(scalar, _dtype("O8", "|"), eight), "numpy dtype 'O8'"),
        "scalar_long": (call(scalar, FLOATS, eight), "but with 8 bytes"),
        "scalar_no_bytes": (call(scalar, FLOATS), "wrong arguments"),
        "array_big_endian": (array(_dtype("f4", ">"), eight), None),
    }
    return {key: Case(pickled(body), reason) for key, (body, reason) in bodies.items()}


def _legacy(folder: Path) -> dict[str, Case]:
    """Files in torch's older format."""
    view = storage().replace(b"NtQ", b"(" + text("0") + number(0) + number(4) + b"ttQ")
    other = storage().replace(text("storage"), text("module"))
    system = call("os.system", text(f"touch {folder / 'legacy_system'}.ran"))
    tar = bytearray(storage().ljust(1024, b"\0"))
    tar[257:262] = b"ustar"
    cases = {
        "legacy_system": Case(legacy(system), UNKNOWN, runs=False, suffix=".pt"),
        "legacy_module": Case(other, "something else than a storage", suffix=".pt"),
        "legacy_view": Case(view, "views of others", suffix=".pt"),
        "legacy_id_text": Case(legacy(text("storage") + b"Q"), "something else than a storage", suffix=".pt"),
        "legacy_id_short": Case(legacy(text("storage") + b"\x85Q"), "something else than a storage", suffix=".pt"),
        "legacy_id_deep": Case(legacy(b")" + b"\x85" * 50_000 + b"Q"), "than a storage", suffix=".pt"),
        "legacy_two_sizes": Case(
            legacy(
                b"".join(
                    b"(" + text("storage") + name("torch.FloatStorage") + text("0") + text("cpu") + number(n) + b"NtQ"
                    for n in (1, 2)
                )
                + b"\x86"
            ),
            "two sizes or types",
            suffix=".pt",
        ),
        "legacy_protocol": Case(legacy(b"N").replace(pickled(b"N"), pickled(b"N", protocol=4)), "pickle_protocol=4"),
        "legacy_version": Case(legacy(b"N").replace(number(1001), number(1002)), "not the header of a torch file"),
        "legacy_tar": Case(bytes(tar), "a tar archive", suffix=".pt"),
        "legacy_cut": Case(storage()[:-1], "bytes are claimed", suffix=".pt"),
        "legacy_header_only": Case(legacy(b"N")[:40], "cut short|damaged", suffix=".pt"),
        "legacy_header_deep": Case(
            pickled(number(0x1950A86A20F9469CFC6C)) + pickled(b")" + b"\x85" * 50_000) * 2, "header", suffix=".pt"
        ),
        "legacy_sum": Case(legacy(tensor(storage())), UNKNOWN, suffix=".pt"),
    }
    return cases
