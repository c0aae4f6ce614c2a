"""Ways to damage a safetensors file of ours. Each takes `(rng, content)` and gives other bytes."""

import functools
import json

from .safetensors_bytes import joined, parts

MUTATIONS = {}  # name -> function
_FATAL = set()  # names of those after which no file can be loaded
_COSTLY = set()  # names of those that make files of megabytes

_SIZES = (-1, 0, 1, 7, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, 1.0, 1e308, "3", None,
          True, [], {}, [[1]])  # fmt: skip
_VALUES = (None, True, False, 0, 1, -1, 3, 10**30, -(10**400), 0.5, 1e308, float("nan"), float("inf"), "", "lstm",
           "float64", "\0\ud800", [], [0], [[]], {}, {"type": "LSTM"})  # fmt: skip
_DTYPES = ("BF16", "F8_E4M3", "F8_E5M2", "F4", "C64", "F64", "F32", "F16", "I32", "I64", "BOOL", "O", "", None, 4, [])


def is_fatal(name):
    """Whether a file is beyond loading after this mutation, whatever was drawn."""
    return name in _FATAL


def is_costly(name):
    """Whether the mutation makes a file of megabytes."""
    return name in _COSTLY


def _mutation(function=None, *, fatal=False, costly=False):
    if function is None:
        return functools.partial(_mutation, fatal=fatal, costly=costly)
    name = function.__name__.strip("_").replace("_", " ")
    MUTATIONS[name] = function
    if fatal:
        _FATAL.add(name)
    if costly:
        _COSTLY.add(name)
    return function


def _pick(rng, values):
    values = list(values)
    return values[int(rng.integers(len(values)))]


def _start(content):
    """Where the data begin."""
    return 8 + int.from_bytes(content[:8], "little")


# ---- bytes ----


def _flipped(rng, content, begin, end, most=4):
    content = bytearray(content)
    for place in rng.integers(begin, max(end, begin + 1), int(rng.integers(1, most + 1))):
        content[min(int(place), len(content) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(content)


@_mutation
def bits_anywhere(rng, content):
    return _flipped(rng, content, 0, len(content), 64)


@_mutation
def bits_of_the_length(rng, content):
    return _flipped(rng, content, 0, 8)


@_mutation
def bits_of_the_header(rng, content):
    return _flipped(rng, content, 8, _start(content))


@_mutation
def bits_of_the_data(rng, content):
    return _flipped(rng, content, _start(content), len(content))


@_mutation
def bytes_of_the_header(rng, content):
    content = bytearray(content)
    place = int(rng.integers(8, _start(content)))
    content[place : place + int(rng.integers(3))] = rng.bytes(int(rng.integers(3)))
    content[:8] = (_start(content)).to_bytes(8, "little") if rng.random() < 0.1 else content[:8]
    return bytes(content)


@_mutation(fatal=True)
def cut_short(rng, content):
    start = _start(content)
    return content[
        : _pick(rng, (0, 1, 7, 8, 9, start - 1, start, start + 1, len(content) - 1, int(rng.integers(len(content)))))
    ]


@_mutation(fatal=True)
def bytes_after_the_end(rng, content):
    return content + rng.bytes(_pick(rng, (1, 4, 8, 4096)))


@_mutation
def a_hole_of_zeros(rng, content):
    begin = int(rng.integers(len(content)))
    size = min(_pick(rng, (8, 512, 4096)), len(content) - begin)
    return content[:begin] + bytes(size) + content[begin + size :]


@_mutation(fatal=True)
def a_part_taken_out(rng, content):
    begin = int(rng.integers(len(content)))
    return content[:begin] + content[begin + int(rng.integers(1, 600)) :]


@_mutation
def noise(rng, content):
    return rng.bytes(int(rng.integers(0, 3000)))


@_mutation(fatal=True)
def another_length_of_the_header(rng, content):
    header, data = parts(content)
    length = _pick(
        rng, (0, 1, 2, 7, 100, len(content), len(content) - 8, 10**8, 10**8 + 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1)
    )
    return joined(header, data, length)


# ---- header ----


def _header_text(text):
    """A mutation that replaces the whole header by `text(rng, header)`, bytes."""

    def mutate(rng, content):
        header, data = parts(content)
        return joined(text(rng, header), data)

    return mutate


def _named(name, function, **options):
    function.__name__ = name
    _mutation(function, **options)


_named("no object for a header", _header_text(
    lambda rng, header: _pick(rng, (b"[]", b"null", b"3", b'"x"', b"", b" ", b"{", b"}", b"{}x", b"\xef\xbb\xbf{}"))
), fatal=True)  # fmt: skip
_named("a header in UTF-16", _header_text(lambda rng, header: json.dumps(header).encode("utf-16")), fatal=True)
_named("a header that is not UTF-8", _header_text(
    lambda rng, header: json.dumps(header).encode().replace(
        b"__metadata__", _pick(rng, (b"\xff", b"\xc0\x80", b"\xed\xa0\x80"))
    )
), fatal=True)  # fmt: skip
_named("a deep header", _header_text(
    lambda rng, header: b'{"x":' + _pick(rng, (b"[", b'{"":')) * 100_000 + b"}"
), fatal=True)  # fmt: skip
_named("a header with NaN", _header_text(
    lambda rng, header: json.dumps({**header, "x": _pick(rng, (float("nan"), float("inf"), -float("inf")))}).encode()
), fatal=True)  # fmt: skip
_named("a huge header of lists", _header_text(
    lambda rng, header: b'{"__metadata__":{},"x":[' + b"[]," * int(rng.integers(10**5, 10**6)) + b"0]}"
), fatal=True, costly=True)  # fmt: skip
_named("a huge header of tensors", _header_text(
    lambda rng, header: json.dumps(
        {**header, **{f"{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(4_000)}}
    ).encode()
), fatal=True, costly=True)  # fmt: skip


@_mutation(fatal=True)
def a_tensor_twice(rng, content):
    header, data = parts(content)
    name = _pick(rng, header)
    text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[_pick(rng, header)])}}}"
    return joined(text.encode(), data)


def _tensor_names(header):
    return sorted(header.keys() - {"__metadata__"})


def _of_a_tensor(change, **options):
    """A mutation that has `change(rng, entry)` alter or replace the entry of one tensor."""

    def mutate(rng, content):
        header, data = parts(content)
        name = _pick(rng, _tensor_names(header))
        result = change(rng, header[name])
        header[name] = header[name] if result is None else result
        return joined(header, data)

    mutate.__name__ = change.__name__
    return _mutation(mutate, **options)


@_of_a_tensor
def another_dtype(rng, entry):
    entry["dtype"] = _pick(rng, _DTYPES)


@_of_a_tensor
def another_size(rng, entry):
    if entry["shape"]:
        entry["shape"][int(rng.integers(len(entry["shape"])))] = _pick(rng, _SIZES)


@_of_a_tensor
def another_shape(rng, entry):
    shapes = [], [0], [2**40], [2**32, 2**32], [2**62, 4], [2**63, 2], [-1, -1], [1] * 100, [0, 2**62], [10**300] * 2000
    entry["shape"] = _pick(rng, (*shapes, None, "3", 3, {}, [None], [[3]]))


def _huge_and_consistent(rng, entry):
    """A size that the offsets confirm, and the file has not."""
    entry["shape"] = [_pick(rng, (2**31, 2**40, 2**50))]
    entry["data_offsets"] = [0, entry["shape"][0] * (8 if entry["dtype"].endswith("64") else 4)]


_of_a_tensor(_huge_and_consistent, fatal=True)


@_of_a_tensor
def other_offsets(rng, entry):
    begin, end = entry["data_offsets"]
    entry["data_offsets"] = _pick(rng, (
        [begin + 4, end + 4], [begin, end - 4], [begin, end + 4], [end, begin], [-4, end], [begin, 2**63], [0, 0],
        [begin], [begin, end, end], [float(begin), end], [str(begin), end], None, {}, [True, end], [2**64, 2**64 + 4],
    ))  # fmt: skip


@_of_a_tensor
def no_tensor_entry(rng, entry):
    return _pick(rng, (0, [], "F32", {}, {"dtype": "F32"}, {**entry, "more": 1}))


@_mutation(fatal=True)
def overlapping_tensors(rng, content):
    header, data = parts(content)
    names = [name for name in _tensor_names(header) if header[name]["data_offsets"][0] > 0]
    entry = header[_pick(rng, names)]
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    entry["data_offsets"] = [0, size]
    return joined(header, data)


@_mutation(fatal=True)
def a_gap(rng, content):
    header, data = parts(content)
    for name in _tensor_names(header):
        header[name]["data_offsets"] = [offset + 8 for offset in header[name]["data_offsets"]]
    return joined(header, bytes(8) + data)


@_mutation(fatal=True)
def a_tensor_missing(rng, content):
    header, data = parts(content)
    begin, end = header.pop(_pick(rng, _tensor_names(header)))["data_offsets"]
    for name in _tensor_names(header):
        header[name]["data_offsets"] = [n - (end - begin) * (n >= end) for n in header[name]["data_offsets"]]
    return joined(header, data[:begin] + data[end:])


@_mutation(fatal=True)
def a_tensor_more(rng, content):
    header, data = parts(content)
    name = _pick(rng, ("", "more", "model.more", "optimizer.more", "state.9", "0.weight\n", "x" * 10_000, "../x"))
    header[name] = {"dtype": "F32", "shape": [2], "data_offsets": [len(data), len(data) + 8]}
    return joined(header, data + bytes(8))


@_mutation(fatal=True)
def a_tensor_renamed(rng, content):
    header, data = parts(content)
    old = _pick(rng, _tensor_names(header))
    header[_pick(rng, (old + " ", old.upper() + "X", "", "\ud800", old[::-1] + "y"))] = header.pop(old)
    return joined(header, data)


@_mutation(fatal=True)
def a_strange_name(rng, content):
    """Numbers and depths in it that would take memory if anybody made something of them."""
    header, data = parts(content)
    old = _pick(rng, _tensor_names(header))
    number, deep = "9" * _pick(rng, (1, 4, 8, 12, 20, 900, 5000)), "0." * _pick(rng, (1, 30, 64, 400, 20_000))
    new = _pick(rng, (
        f"{number}.{old}", f"0.{number}.{old}", old.replace("0", number, 1) + ".0", f"{deep}{old}", f"{old}.{deep}0",
        f".{old}", f"{old}.", f"00.{old}", "x" * _pick(rng, (900, 10**5)) + f".{old}", f"{old}.{number}",
    ))  # fmt: skip
    header[new] = header.pop(old)
    return joined(header, data)


@_mutation
def another_dtype_of_its_size(rng, content):
    """Perhaps of half of it, for twice as many numbers."""
    header, data = parts(content)
    for name in _tensor_names(header):
        entry = header[name]
        same = {"F32": ("I32", "U32"), "F64": ("I64", "U64")}.get(entry["dtype"], ("I8",))
        half = {"F32": ("F16", "I16"), "F64": ("F32", "I32")}.get(entry["dtype"])
        if half and entry["shape"] and rng.random() < 0.5:
            entry["dtype"], entry["shape"][-1] = _pick(rng, half), 2 * entry["shape"][-1]
        else:
            entry["dtype"] = _pick(rng, same)
        if rng.random() < 0.5:
            break
    return joined(header, data)


@_mutation
def two_tensors_exchanged(rng, content):
    header, data = parts(content)
    one, other = _pick(rng, _tensor_names(header)), _pick(rng, _tensor_names(header))
    header[one], header[other] = header[other], header[one]
    return joined(header, data)


# ---- metadata ----


@_mutation
def another_metadata_entry(rng, content):
    header, data = parts(content)
    metadata = header["__metadata__"]
    metadata[_pick(rng, metadata)] = _pick(
        rng, ("", "0", "2", "1.0", "-1", "１", "9" * 5000, "checkpoint", "model", "{", "[]", "{}", "null")
    )
    return joined(header, data)


@functools.partial(_mutation, costly=True)
def a_long_text(rng, content):
    """Of megabytes, in one of the places that messages tell of, perhaps with an escape that makes it wide."""
    header, data = parts(content)
    wide = _pick(rng, ("", "\n", "é", "\u0100", "\N{GRINNING FACE}"))
    text = _pick(rng, ("a", "a ")) * int(rng.integers(3_000_000, 8_000_000))
    text = _pick(rng, (wide + text, text + wide, f"\u0100{text}{wide}"))
    metadata, entry = header["__metadata__"], {"dtype": "F32", "shape": [0], "data_offsets": [len(data), len(data)]}
    place = _pick(rng, ("metadata", "name", "dtype", "type", "argument", "JSON"))
    if place == "metadata":
        metadata[_pick(rng, (*metadata, "more"))] = text
    elif place in ("name", "dtype"):
        header |= {text: entry} if place == "name" else {"more": {**entry, "dtype": text}}
    else:
        values = {"type": {"type": text}, "argument": {"type": "Tanh", "config": {text: text}}, "JSON": {"more": text}}
        metadata[_pick(rng, _json_names(header))] = json.dumps(values[place])
    ascii_only = bool(rng.random() < 0.7)
    return joined(json.dumps(header, ensure_ascii=ascii_only).encode("utf-8"), data)


@_mutation(fatal=True)
def metadata_not_strings(rng, content):
    header, data = parts(content)
    value = _pick(rng, (1, None, True, [], {}, 1e308))
    if rng.random() < 0.2:
        header["__metadata__"] = _pick(rng, (1, [], "x", True, ["format"]))
    else:
        header["__metadata__"][_pick(rng, header["__metadata__"])] = value
    return joined(header, data)


@_mutation
def metadata_missing(rng, content):
    header, data = parts(content)
    if rng.random() < 0.2:
        del header["__metadata__"]
    else:
        del header["__metadata__"][_pick(rng, header["__metadata__"])]
    return joined(header, data)


# ---- JSON in the metadata ----


def _json_names(header):
    """Of the entries that hold JSON objects."""
    return sorted(name for name, text in header["__metadata__"].items() if text.startswith("{"))


def _of_json(change, **options):
    """A mutation that puts `change(rng, value, text)`, text, in the place of one of the metadata's JSON."""

    def mutate(rng, content):
        header, data = parts(content)
        name = _pick(rng, _json_names(header))
        text = header["__metadata__"][name]
        header["__metadata__"][name] = change(rng, json.loads(text), text)
        return joined(header, data)

    mutate.__name__ = change.__name__
    return _mutation(mutate, **options)


def _places(value, above=()):
    """Where in a JSON value there is something: (container, key) of all that is in it."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield value, key
        yield from _places(entry)


def _replaced(rng, value, new):
    """Put `new(old)` in one place, however many there are beside it in a long list."""
    container, key = _pick(rng, _places(value))
    container[key] = new(container[key])
    return json.dumps(value)


@_of_json
def a_json_value_of_any_type(rng, value, text):
    return _replaced(rng, value, lambda old: _pick(rng, _VALUES))


@_of_json
def a_json_number_changed(rng, value, text):
    def new(old):
        return (
            _pick(rng, (-old, old + 1, old * 10**9, old * 10**30, float(old), str(old), [old]))
            if type(old) in (int, float)
            else old
        )

    for _ in range(8):
        text = _replaced(rng, value, new)
    return text


@_of_json
def a_json_entry_missing(rng, value, text):
    container, key = _pick(rng, _places(value))
    del container[key]
    return json.dumps(value)


@_of_json
def a_json_entry_more(rng, value, text):
    containers = [value] + [
        container[key] for container, key in _places(value) if isinstance(container[key], (dict, list))
    ]
    container, new = _pick(rng, containers), _pick(rng, _VALUES)
    if isinstance(container, dict):
        names = "init", "seed", "forget_bias", "cell", "self", "layers", "more", "", "__class__", "hidden_size", "dtype"
        container[_pick(rng, names)] = _pick(rng, ("orthogonal", 3, new))
    else:
        container.append(_pick(rng, (*container, new)))
    return json.dumps(value)


@_of_json
def two_json_values_exchanged(rng, value, text):
    (one, key), (other, other_key) = (_pick(rng, _places(value)) for _ in range(2))
    one[key], other[other_key] = json.loads(json.dumps((other[other_key], one[key])))
    return json.dumps(value)


def _a_json_name_twice(rng, value, text):
    name = _pick(rng, value)
    return text[:-1] + f", {json.dumps(name)}: {json.dumps(value[name])}}}"


_of_json(_a_json_name_twice, fatal=True)


def _deep_json(rng, value, text):
    opening, closing = _pick(rng, (("[", "]"), ('{"layers":', "}")))
    deep = opening * 100_000 + "0" + closing * _pick(rng, (0, 100_000))
    key = _pick(rng, value)
    return text.replace(json.dumps(value[key]), deep, 1) if rng.random() < 0.5 else deep


_of_json(_deep_json, fatal=True)


def _json_cut_short(rng, value, text):
    return text[: int(rng.integers(len(text)))]


_of_json(_json_cut_short, fatal=True)


@_of_json
def a_json_character(rng, value, text):
    place = int(rng.integers(len(text)))
    return (
        text[:place]
        + _pick(rng, '0123456789{}[]",:-.eEtfn\\u\0 \ud800é\N{GRINNING FACE}')
        + text[place + int(rng.integers(2)) :]
    )


def _huge_json(rng, value, text):
    """What is read into many objects, or into one long text."""
    filler = _pick(
        rng,
        (["[]"], ["{}"], ["0.1"], ['"ab"'], ['{"a":0}'], [json.dumps("\N{GRINNING FACE}" * 1000, ensure_ascii=False)]),
    )
    count = int(rng.integers(10**4, 3 * 10**5)) // len(filler[0]) * 3
    return text[:-1] + f', "more": [{",".join(filler * count)}]}}'


_of_json(_huge_json, costly=True)


def _many_layers(rng, value, text):
    """Layers that need no tensors."""
    if "layers" not in value:
        return text[:-1]
    value["layers"] += [{"type": "Tanh", "config": {}}] * int(rng.integers(10**4, 3 * 10**4))
    return json.dumps(value)


_of_json(_many_layers, costly=True)
