"""The libraries that are compared, a small module each, behind one interface."""

import importlib

MODULES = {
    "fastrnn": "own",
    "torch": "pytorch",
    "jax": "jax_scan",
    "onnxruntime": "onnx_graph",
    "numpy": "numpy_loop",
    "njit": "njit_loop",
}
TITLES = {
    "fastrnn": "fastrnn",
    "torch": "PyTorch",
    "jax": "JAX",
    "onnxruntime": "ONNX Runtime",
    "numpy": "NumPy loop",
    "njit": "njit loop",
}


class Unavailable(Exception):
    """The library is missing, or has no such layer."""


class Peer:
    """One layer on the data of a `Problem`; each method is one unit of work, in the library's strongest setting."""

    trains = infers = ("LSTM", "GRU", "RNN")  # the cells it can do
    dtypes = ("float32",)
    ragged = False

    @classmethod
    def check(cls, problem, work):
        """`Unavailable` for what the library can't do."""
        cells = cls.trains if work == "train" else cls.infers
        able = problem.cell in cells and problem.dtype in cls.dtypes and (cls.ragged or problem.lengths is None)
        if not able:
            raise Unavailable(f"no {problem.cell} {work} {problem.dtype}")

    def __init__(self, problem, threads):
        self.problem, self.threads = problem, threads

    def train(self):
        """Forward and backward, all gradients, those of x included."""
        raise NotImplementedError

    def infer(self):
        """y alone."""
        raise NotImplementedError

    def results(self, work):
        """Arrays by name: y, and of training dx and the parameters' gradients under PyTorch's names."""
        raise NotImplementedError


def module(name):
    """The module of the peer `name`; `Unavailable` if its library is missing."""
    try:
        return importlib.import_module(f".{MODULES[name]}", __name__)
    except ImportError as error:
        raise Unavailable(f"{name} is not installed: {error}") from None


def load(names):
    """Load the libraries in the order in which all get their own way.

    PyTorch first: a GNU OpenMP that fastrnn has started already, with threads that sleep soon, would be its own, too.
    fastrnn's threads next, and before PyTorch is told how many to use, as the start changes the number for all.
    """
    for name in sorted(names, key=lambda name: name != "torch"):
        try:
            module(name)
        except Unavailable:
            pass
    import fastrnn

    fastrnn.get_num_threads()


def make(name, problem, threads, work="train"):
    """The `Peer` called `name` for a problem; `Unavailable` if it can't do `work`."""
    layer = module(name).Layer
    layer.check(problem, work)
    return layer(problem, threads)


def make_all(names, problem, threads, work="train"):
    """Those of `names` that are there, name -> `Peer`."""
    load(names)
    peers = {}
    for name in names:
        try:
            peers[name] = make(name, problem, threads, work)
        except Unavailable:
            pass
    return peers
