"""State dicts and files in PyTorch's names that nobody vouches for: refused in a sentence, in little memory."""

import contextlib
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

import fastrnn
from fastrnn import cli
from fastrnn.interop import torch as interop


def zeros(*shape):
    return np.zeros(shape, "f4")


@contextlib.contextmanager
def memory_below(most):
    """A block that never has more than so many bytes of Python's and NumPy's memory."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "tensors, pattern",
    [
        ({"30000000.weight": zeros(1, 1)}, r"what has no parameters, 0, 1, 2, 3, 4: pass layers="),
        (
            {"0.weight": zeros(1, 1), f"a.{'9' * 900}.weight": zeros(1, 1)},
            r"no parameters, a\.0, a\.1,.*: pass layers=",
        ),
        ({"a.0.weight": zeros(1, 1), "a.3.weight": zeros(1, 1)}, r"what has no parameters, a\.1, a\.2: pass layers="),
        ({"9" * 5000 + ".weight": zeros(1, 1)}, r"names must have at most 1,000 characters, got 5,007: '9{80}…'"),
        ({"0." * 65 + "weight": zeros(1, 1)}, "'.*…' must be of at most 64 modules in one another"),
        ({"w" * 200_000: np.zeros(1, "i4")}, "names must have at most 1,000 characters, got 200,000"),
        ({f"{i}.weight": zeros(1, 1) for i in range(10_001)}, "at most 10,000 tensors, got 10,001"),
        ({"weight": np.zeros((1, 1), "i4")}, r"state_dict\['weight'\] must hold .* numbers, got dtype int32"),
        ({"0.weight": zeros(4, 2), "0.bias": zeros(3)}, r"module '0': bias must have shape \(4,\), got \(3,\)"),
        ({"0.weight": zeros(4, 0), "0.bias": zeros(4)}, r"module '0': .* without numbers:.*weight \(4, 0\)"),
        ({f"weight_{i}": zeros(1) for i in range(3000)}, r"state_dict: no layer .* these tensors: .* \(1,\), …"),
    ],
)
def test_interop_torch_strangers_state_dicts_and_files_are_refused_in_a_sentence(tensors, pattern, tmp_path):
    """What the file says is looked at before memory is taken for it: a number in a name, the depth of one, ..."""
    with memory_below(8 << 20), pytest.raises((ValueError, TypeError), match=pattern):
        interop.from_state_dict(tensors)
    path = tmp_path / "theirs.safetensors"
    save_file(tensors, path)
    with memory_below(2 * path.stat().st_size + (8 << 20)), pytest.raises(fastrnn.FormatError, match=pattern) as caught:
        interop.load(path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < 500 + len(str(path))


def test_interop_torch_strangers_files_become_models(tmp_path):
    """More numbered modules than the order of any is searched for; a wrong size in the middle is found."""
    rng = np.random.default_rng(0)
    tensors = {"0.weight": rng.standard_normal((11, 4), "f4")}
    for i in range(1, 20):
        tensors |= {f"{i}.{n}": a for n, a in fastrnn.GRU(4, 4, seed=i).state_dict().items()}
    tensors |= {f"{i}.{n}": a for i in range(20, 40) for n, a in fastrnn.Linear(4, 4, seed=i).state_dict().items()}
    path = tmp_path / "theirs.safetensors"
    save_file(tensors, path)
    model = interop.load(path)
    assert [type(layer).__name__ for layer in model.layers] == ["Embedding"] + 19 * ["GRU"] + 20 * ["Linear"]
    assert model.state_dict().keys() == tensors.keys()
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, tensors[name])
    save_file({**tensors, "30.weight": zeros(5, 4), "30.bias": zeros(5)}, path)
    with pytest.raises(fastrnn.FormatError, match="don't fit in any order"):
        interop.load(path)


def test_interop_torch_strangers_large_files_take_four_times_their_size(tmp_path):
    """What is read, a copy of it, and the model's values and gradients."""
    path = tmp_path / "theirs.safetensors"
    save_file({f"{i}.{n}": zeros(*s) for i in range(3) for n, s in (("weight", (800, 800)), ("bias", (800,)))}, path)
    interop.load(path)  # lazy imports
    with memory_below(4.1 * path.stat().st_size):
        interop.load(path)


@pytest.mark.parametrize(
    "hints, error, pattern",
    [
        ({"layers": ["b"]}, ValueError, r"theirs.*: layers\[0\]: module 'b' is not there"),
        ({"layers": "a"}, TypeError, "layers must be a list"),
        ({"nonlinearity": "sigmoid"}, ValueError, "nonlinearity must be"),
        ({"dtype": "float16"}, ValueError, "dtype must be"),
        ({"batch_first": "yes"}, TypeError, "batch_first must be"),
        ({"first": True}, TypeError, "takes no argument first"),
    ],
)
def test_interop_torch_strangers_files_are_not_blamed_for_hints(hints, error, pattern, tmp_path):
    path = tmp_path / "theirs.safetensors"
    save_file({"a.weight": zeros(3, 2), "a.bias": zeros(3)}, path)
    with pytest.raises(error, match=pattern) as caught:
        interop.load(path, **hints)
    assert not isinstance(caught.value, fastrnn.FormatError)


@pytest.mark.parametrize("tensors, pattern", [
    ({"w" * 900: np.zeros(1, "i4")}, "got dtype int32"),
    ({"3.weight": zeros(1, 1)}, "what has no parameters, 0, 1, 2: pass --layers with"),
])  # fmt: skip
def test_interop_torch_strangers_files_are_not_converted(tensors, pattern, tmp_path, capsys):
    path = tmp_path / "theirs.safetensors"
    save_file(tensors, path)
    assert cli.main(["convert", str(path), "--from", "torch", "--to", "fastrnn"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.count(str(path)) == 1 and len(err) < 600 and pattern in err
    assert list(tmp_path.iterdir()) == [path]


def test_interop_torch_strangers_tensors_without_numbers_are_refused():
    torch = pytest.importorskip("torch")
    pattern = "is a tensor without numbers: on the device meta, or of a lazy module"
    with torch.device("meta"):
        module = torch.nn.Sequential(torch.nn.GRU(2, 3), torch.nn.Linear(3, 2))
    for state_dict in (module.state_dict(), torch.nn.LazyLinear(3).state_dict()):
        with pytest.raises(ValueError, match=pattern):
            interop.from_state_dict(state_dict)
        with pytest.raises(ValueError, match=pattern):
            interop.load_state_dict_into(fastrnn.Linear(2, 3), state_dict)
    with pytest.raises(ValueError, match=f"0.weight_ih_l0 {pattern}"):
        interop.from_module(module)
    with pytest.raises(TypeError, match=r"state_dict\['weight'\] can't be taken as an array: .*[Ss]parse"):
        interop.from_state_dict({"weight": torch.eye(3).to_sparse()})


def test_interop_torch_strangers_no_tensor_is_dropped():
    """Two modules for one layer, of which one would be lost; one name with a dot before it and without."""
    model = fastrnn.Linear(2, 3, seed=0)
    one, other = ({f"{name}.{n}": a for n, a in fastrnn.Linear(2, 3, seed=s).state_dict().items()}
                  for name, s in (("a", 1), ("b", 2)))  # fmt: skip
    before = model.state_dict()
    with pytest.raises(ValueError, match="must not give modules 'a' and 'b' to one layer, ''"):
        interop.load_state_dict_into(model, one | other, names={"a": "", "b": ""})
    with pytest.raises(TypeError, match="a layer's name for module 'a', got 0"):
        interop.load_state_dict_into(model, one, names={"a": 0})
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    with pytest.raises(ValueError, match="two tensors have the name 'weight'"):
        interop.from_state_dict({"weight": zeros(2, 2), ".weight": zeros(2, 2), "bias": zeros(2)})


def test_interop_torch_strangers_tensors_without_the_prefix_are_not_looked_at():
    model = fastrnn.Linear(2, 3, seed=0)
    tensors = {f"head.{n}": a for n, a in fastrnn.Linear(2, 3, seed=1).state_dict().items()}
    interop.load_state_dict_into(model, tensors | {"norm.num_batches_tracked": np.array(3)}, prefix="head.")
    np.testing.assert_array_equal(model.state_dict()["weight"], tensors["head.weight"])
