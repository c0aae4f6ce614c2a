"""How long does a recurrent layer take, by whom?"""

import pytest

from .peers import MODULES
from .problem import GATES, SHAPES, Problem
from .tables.ragged import SHAPE, uniform_lengths

cells = pytest.mark.parametrize("cell", GATES)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))


@cells
@shapes
@pytest.mark.parametrize("name", MODULES)
def test_train(contest, cell, shape, name):
    contest(Problem(cell, shape), name, "train")


@cells
@shapes
@pytest.mark.parametrize("name", MODULES)
def test_inference(contest, cell, shape, name):
    contest(Problem(cell, shape), name, "infer")


@cells
@shapes
@pytest.mark.parametrize("name", ["fastrnn", "torch"])
def test_train_float64(contest, cell, shape, name):
    contest(Problem(cell, shape, "float64"), name, "train")


@cells
@pytest.mark.parametrize("name", ["fastrnn", "torch"])
def test_ragged(contest, cell, name):
    contest(Problem(cell, SHAPE, lengths=uniform_lengths(SHAPE)), name, "train")
