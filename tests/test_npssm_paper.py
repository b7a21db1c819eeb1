"""NPSSM: the published size, its layers against loops over single sequences, and what depends on what."""

import math

import pytest
import torch
from torch.nn import functional as F

from npimpute.engine import npssm_paper
from npimpute.engine.npssm_paper import NPSSM, ORDERS, NPSSMConfig
from npimpute.errors import ConfigError

SMALL = {"d_model": 6, "n_layers": 2, "d_state": 3, "d_conv": 3}
each_order = pytest.mark.parametrize("order", ORDERS)


def body(order="attr-data", seed=0, **sizes):
    """A small body with weights that are drawn, those that begin at zero or one as well."""
    torch.manual_seed(seed)
    model = NPSSM(NPSSMConfig(**{**SMALL, **sizes}, order=order)).double().eval()
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


def table(b, r, c, d=6, seed=1):
    torch.manual_seed(seed)
    return torch.randn(b, r, c, d, dtype=torch.float64)


def read(model, x):
    """The body's output without gradients; it overwrites what it is given."""
    with torch.no_grad():
        return model(x.clone())


def moved(model, x, row, column):
    """(r, c): where the first table's output differs when its tokens at a row and column are others."""
    changed = x.clone()
    changed[:, row, column] = torch.randn_like(changed[:, row, column])
    return (read(model, x) - read(model, changed))[0].abs().amax(-1) > 1e-9


def expected_parameters(d_model, n_layers, d_state, d_conv, expand):
    inner, rank = expand * d_model, math.ceil(d_model / 16)
    convolution = inner * d_conv + inner
    selection = inner * (rank + 2 * d_state) + rank * inner + inner
    mixer = convolution + selection + inner * d_state + inner  # and A, D
    projections = d_model * 2 * inner + inner * d_model
    return 2 * n_layers * (projections + 2 * mixer + d_model)  # and a norm, for each of two axes a layer


def parameters(**sizes):
    return sum(p.numel() for p in NPSSM(NPSSMConfig(**sizes)).parameters())


def test_the_published_size():
    published = {"d_model": 156, "n_layers": 2, "d_state": 8, "d_conv": 4, "expand": 2}
    assert NPSSMConfig() == NPSSMConfig(**published, order="attr-data")
    assert parameters() == expected_parameters(**published) == 711_984


@pytest.mark.parametrize("sizes", [(6, 2, 3, 3, 2), (16, 1, 8, 4, 1), (17, 3, 1, 1, 3)])
def test_parameters_are_counted_by_the_formula(sizes):
    names = ("d_model", "n_layers", "d_state", "d_conv", "expand")
    sizes = dict(zip(names, sizes, strict=True))
    assert parameters(**sizes) == expected_parameters(**sizes)


@each_order
def test_every_order_has_as_many_parameters(order):
    assert parameters(order=order) == 711_984


def rms_norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


@each_order
def test_a_body_is_residual_mixers_run_over_one_sequence_at_a_time(order):
    model, x = body(order), table(2, 4, 5)
    wanted = x.clone()
    axes = {"attr-data": "ad", "data-attr": "da", "attr": "aa", "data": "dd", "flat": "ff"}[order] * 2
    assert len(model.layers) == len(axes)
    with torch.no_grad():
        for layer, axis in zip(model.layers, axes, strict=True):
            for one in wanted:
                # Views of one row, of one column, or of everything row after row: written to in place.
                views = {"a": list(one), "d": [one[:, j] for j in range(5)], "f": [one.view(20, 6)]}[axis]
                for sequence in views:
                    sequence += layer.mixer(rms_norm(sequence, layer.norm.weight)[None])[0][0]
    torch.testing.assert_close(read(model, x), wanted)


@each_order
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 5), (2, 1, 7), (3, 6, 1), (2, 30, 3)])
def test_the_same_weights_read_any_table_with_gradients_or_without(order, shape):
    model, x = body(order), table(*shape)
    with_gradients, without = model(x), read(model, x)
    assert with_gradients.shape == x.shape and with_gradients.dtype == x.dtype and without.shape == x.shape
    assert with_gradients.requires_grad and not without.requires_grad
    torch.testing.assert_close(without, with_gradients.detach())
    torch.testing.assert_close(x, table(*shape), rtol=0, atol=0)  # with gradients it stays as it was


@each_order
@pytest.mark.parametrize("tokens", [0, 4, 9, 20, 45, 1000])
def test_groups_of_sequences_do_not_matter(order, tokens, monkeypatch):
    model, x = body(order), table(3, 4, 5)
    whole = read(model, x)
    calls = []
    for layer in model.layers:
        layer.mixer.register_forward_pre_hook(lambda _, given: calls.append(given[0].shape[:2]))
    inner = 12
    monkeypatch.setattr(npssm_paper, "CHUNK_BYTES", {"cpu": tokens * 4 * npssm_paper.INNER_TENSORS * inner})
    torch.testing.assert_close(read(model, x), whole)
    assert all(n == 1 or n * length <= tokens for n, length in calls)
    assert sum(n * length for n, length in calls) == 3 * 4 * 5 * len(model.layers)
    assert tokens < 1000 or len(calls) == len(model.layers)


@each_order
def test_a_table_does_not_see_the_others_of_its_batch(order):
    model, x = body(order), table(3, 4, 5)
    alone = torch.cat([read(model, x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(read(model, x), alone)
    torch.testing.assert_close(model(x).detach(), alone)


@pytest.mark.parametrize("row", [0, 2, 4])
def test_along_the_columns_rows_do_not_see_each_other(row):
    found = moved(body("attr"), table(1, 5, 6), row, 3)
    assert found[row].all() and found.sum() == 6


@pytest.mark.parametrize("column", [0, 3, 5])
def test_along_the_rows_columns_do_not_see_each_other(column):
    found = moved(body("data"), table(1, 5, 6), 2, column)
    assert found[:, column].all() and found.sum() == 5


@pytest.mark.parametrize("order", ["attr-data", "data-attr", "flat"])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (4, 2)])
def test_the_query_reads_every_token_of_its_table(order, row, column):
    assert moved(body(order), table(1, 5, 6), row, column)[-1].all()


def test_one_layer_of_attr_then_data_is_not_data_then_attr():
    one, other = body(n_layers=1), body("data-attr", n_layers=1)
    other.load_state_dict(one.state_dict())
    x = table(1, 4, 5)
    assert (read(one, x) - read(other, x)).abs().max() > 1e-3
    # Exchanged, the layers are each other's mirror image across the diagonal of the table.
    other.layers[0].mixer, other.layers[1].mixer = one.layers[0].mixer, one.layers[1].mixer
    other.layers[0].norm, other.layers[1].norm = one.layers[0].norm, one.layers[1].norm
    torch.testing.assert_close(read(one, x).transpose(1, 2), read(other, x.transpose(1, 2)))


def test_the_order_of_rows_and_of_columns_matters():
    model, x = body(), table(1, 5, 6)
    rows, columns = [1, 0, 2, 3, 4], [1, 0, 2, 3, 4, 5]
    assert (read(model, x)[:, rows] - read(model, x[:, rows])).abs().max() > 1e-6
    assert (read(model, x)[:, :, columns] - read(model, x[:, :, columns])).abs().max() > 1e-6


@each_order
def test_every_parameter_learns(order):
    model, x = body(order), table(2, 4, 5)
    F.mse_loss(model(x), table(2, 4, 5, seed=2)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-9, name


@each_order
def test_gradients_are_those_of_differences(order):
    model, x = body(order, n_layers=1), table(1, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(x)[:, -1], x, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"d_model": 0}, "d_model 0"),
        ({"n_layers": -1}, "n_layers -1"),
        ({"d_state": 0}, "d_state 0"),
        ({"d_conv": 0}, "d_conv 0"),
        ({"expand": 0}, "expand 0"),
        ({"order": "rows"}, "order rows: choose from attr-data, data-attr, attr, data, flat"),
    ],
)
def test_a_wrong_setting_is_named(wrong, said):
    with pytest.raises(ConfigError, match=f"^{said}") as error:
        NPSSMConfig(**wrong)
    assert "\n" not in str(error.value)


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        NPSSMConfig().d_model = 3
