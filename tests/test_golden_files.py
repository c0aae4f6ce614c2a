"""Files that older versions wrote: they load, compute what they did, and training goes on as it did there."""

import numpy as np
import pytest

import fastrnn
from tests.data import make_files

VERSIONS = "first", "strict"


def recorded(version):
    with np.load(make_files.HERE / f"{version}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_model_computes_what_it_did(version):
    expected = recorded(version)
    model = fastrnn.load(make_files.HERE / f"{version}.model.safetensors")
    assert repr(model) == repr(make_files.model())
    np.testing.assert_allclose(model.forward(expected["x"])[0], expected["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_checkpoint_is_taken_up(version):
    job = make_files.trainer()
    extra = job.load_checkpoint(make_files.HERE / f"{version}.checkpoint.safetensors")
    assert extra == {"note": [1, 2.5, None]} and job.updates == make_files.UPDATES
    losses = make_files.updates(job, make_files.batches())
    np.testing.assert_allclose(losses, recorded(version)["losses"], rtol=1e-5)
