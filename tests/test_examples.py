"""The worked examples, shortened."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def example(name):
    """The example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_encoder_decoder_learns(capsys):
    assert example("encoder_decoder").main(["--updates", "800"]) > 0.8
    assert "800 updates" in capsys.readouterr().out


@pytest.mark.parametrize("which", [0, 1], ids=["encoder", "decoder"])
def test_encoder_decoder_gradient_is_the_slope(which):
    """Along random directions of all parameters, in float64."""
    module = example("encoder_decoder")
    models = module.build(units=6, embedding=3, dtype="float64")
    trainer = module.ReversalTrainer(*models, batch=5)
    batch, rng = module.draw(5, np.random.default_rng(0)), np.random.default_rng(1)
    trainer.add_gradients(*batch)
    model, gradient = models[which], models[which].gradients_to_vector()
    start = model.parameters_to_vector()
    for _ in range(5):
        direction, values = rng.standard_normal(start.size), []
        for side in (-1e-5, 1e-5):
            model.vector_to_parameters(start + side * direction)
            values.append(trainer.add_gradients(*batch))
        np.testing.assert_allclose(gradient @ direction, (values[1] - values[0]) / 2e-5, rtol=1e-6)


def test_encoder_decoder_decodes_as_it_was_trained():
    """Given the symbols it writes itself, the decoder's outputs are those of one forward pass over them."""
    module = example("encoder_decoder")
    encoder, decoder = module.build(units=8)
    source, lengths, _, _ = module.draw(20, np.random.default_rng(2))
    written = module.decode(encoder, decoder, source, lengths)
    _, (_, final) = encoder.forward(source, lengths=lengths)
    for b, symbols in enumerate(written):
        given = np.array([module.START, *symbols])[:, np.newaxis]
        state = tuple(part[:, b : b + 1] for part in final)
        chosen = decoder.forward(given, (None, state, None))[0].argmax(-1)[:, 0].tolist()
        assert chosen[: module.LONGEST + 1] == [*symbols, module.END][: module.LONGEST + 1] or len(symbols) > 8


def test_evolve_policy(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "policy.png"
    arguments = ["--generations", "25", "--seconds", "0.01", "--output", str(picture)]
    assert example("evolve_policy").main(arguments) > 400
    assert "million steps a second" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_evolve_policy_plays_as_the_layers_do():
    module = example("evolve_policy")
    policy, rng = module.make_policy(1), np.random.default_rng(1)
    starts = module.draw_starts(5, rng)
    population = np.stack([policy.parameters_to_vector() * scale for scale in (1.0, 3.0)])
    durations = module.Simulator(policy, 2).durations(population, starts, limit=100)
    for parameters, row in zip(population, durations, strict=True):
        policy.vector_to_parameters(parameters)
        assert row.tolist() == [len(module.record(policy, start, 101)) - 1 for start in starts]


def test_lbfgs(capsys):
    pytest.importorskip("scipy.optimize")
    errors = example("lbfgs").main()
    assert errors["trained"] < errors["before training"] / 50
    assert errors["second half"] < errors["second half, last value as the prediction"] / 5
    assert "iterations" in capsys.readouterr().out


def test_lbfgs_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(SystemExit, match="SciPy: pip install scipy"):
        example("lbfgs").main()
