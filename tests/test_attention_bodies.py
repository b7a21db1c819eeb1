"""MSA Transformer and SPIN: attention against loops, any table, what depends on what, and options that cannot be."""

import math

import pytest
import torch
from torch.nn import functional as F

from npimpute.engine.msa_transformer import (
    Attention,
    AxialLayer,
    MSATransformer,
    MSATransformerConfig,
    TiedAttention,
    column_positions,
)
from npimpute.engine.spin import SPIN, SPINConfig, SPINLayer
from npimpute.errors import ConfigError

CONFIGS = [MSATransformerConfig, SPINConfig]
SMALL = {"d_model": 12, "n_heads": 3, "n_layers": 2, "expand": 2}
both = pytest.mark.parametrize("config", CONFIGS)


def body(config, seed=0, **sizes):
    torch.manual_seed(seed)
    more = {"inducing": 4, "attributes": 5} if config is SPINConfig else {}
    kind = SPIN if config is SPINConfig else MSATransformer
    return kind(config(**{**SMALL, **more, **sizes})).double().eval()


def table(b, r, c, d=12, seed=1):
    torch.manual_seed(seed)
    return torch.randn(b, r, c, d, dtype=torch.float64)


def with_new(x, row, column):
    """x with other tokens at a row and column: not shifted by a constant, which LayerNorm does not see."""
    x = x.clone()
    x[:, row, column] = torch.randn_like(x[:, row, column])
    return x


def moved(a, b):
    """(r,): rows of the first table in which two outputs differ."""
    return (a - b).abs().amax((-1, -2))[0] > 1e-9


def layer_norm(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def loops(layer, x, y, n_heads):
    """Tied attention of slices x (t, n, d) over y (t, m, d), one number at a time; t = 1 is plain attention."""
    t, n, d = x.shape
    m, e = y.shape[1], d // n_heads
    read = torch.zeros_like(x)
    for head in range(n_heads):
        part = slice(head * e, (head + 1) * e)
        q = layer.query(layer_norm(x))[..., part]
        k, v = layer.key(layer_norm(y))[..., part], layer.value(layer_norm(y))[..., part]
        for i in range(n):
            logits = [sum(float(q[s, i] @ k[s, j]) for s in range(t)) / math.sqrt(t * e) for j in range(m)]
            total = sum(math.exp(a) for a in logits)
            for s in range(t):
                read[s, i, part] = sum(math.exp(logits[j]) / total * v[s, j] for j in range(m))
    return x + layer.out(read)


@pytest.mark.parametrize("n_heads", [1, 3])
def test_tied_row_attention_is_loops_over_rows_and_columns(n_heads):
    torch.manual_seed(2)
    layer = TiedAttention(12, n_heads, 0.0).double()
    x, y = table(2, 4, 5), table(2, 4, 7, seed=3)
    with torch.no_grad():
        for i in range(2):
            torch.testing.assert_close(layer(x)[i], loops(layer, x[i], x[i], n_heads))
            torch.testing.assert_close(layer(x, y)[i], loops(layer, x[i], y[i], n_heads))
        # The other rows have a say in the map.
        assert (layer(x)[:, :1] - layer(x[:, :1])).abs().max() > 1e-3


@pytest.mark.parametrize("n_heads", [1, 2, 3])
def test_attention_is_loops(n_heads):
    torch.manual_seed(4)
    layer = Attention(12, n_heads, 0.0).double()
    x, y = table(1, 3, 5)[0], table(1, 3, 7, seed=3)[0]
    with torch.no_grad():
        for i in range(3):
            torch.testing.assert_close(layer(x)[i], loops(layer, x[i : i + 1], x[i : i + 1], n_heads)[0])
            torch.testing.assert_close(layer(x, y)[i], loops(layer, x[i : i + 1], y[i : i + 1], n_heads)[0])


def test_an_axial_layer_ties_rows_then_reads_each_column_by_itself():
    torch.manual_seed(6)
    layer = AxialLayer(MSATransformerConfig(**SMALL)).double()
    x = table(1, 4, 5)[0]
    with torch.no_grad():
        y = loops(layer.rows, x, x, 3)
        columns = [loops(layer.columns, y[None, :, j], y[None, :, j], 3)[0] for j in range(5)]
        torch.testing.assert_close(layer(x[None])[0], layer.mlp(torch.stack(columns, 1)))


def test_a_spin_layer_reads_each_row_by_itself_and_compares_whole_context_rows():
    torch.manual_seed(7)
    layer = SPINLayer(SPINConfig(**SMALL)).double()
    tokens, h_a, h_d = table(2, 4, 5), table(2, 4, 3, seed=2), table(2, 3, 6, seed=3)  # h_a: (b, r, a, d)
    with torch.no_grad():
        got_a, got_d = layer(tokens.flatten(0, 1), h_a.flatten(0, 1), h_d)
        for i in range(2):
            rows = []
            for row in range(4):
                read = layer.xaba.mlp(loops(layer.xaba.attention, h_a[i, row : row + 1], tokens[i, row : row + 1], 3))
                rows.append(layer.abla.mlp(loops(layer.abla.attention, read, read, 3))[0])
                torch.testing.assert_close(got_a[4 * i + row], rows[-1])
            context = torch.stack(rows[:3], 1)  # (a, r - 1, d)
            torch.testing.assert_close(got_d[i], layer.xabd.mlp(loops(layer.xabd.attention, h_d[i], context, 3)))


@pytest.mark.parametrize("d", [1, 7, 12])
def test_column_positions_are_sines_and_cosines(d):
    half = (d + 1) // 2
    got = column_positions(torch.empty(9, d, dtype=torch.float64))
    for j in range(9):
        angles = [j * 10000 ** (-i / half) for i in range(half)]
        wanted = [*map(math.sin, angles), *map(math.cos, angles)][:d]
        torch.testing.assert_close(got[j], torch.tensor(wanted, dtype=torch.float64))


def test_column_positions_are_exact_in_short_dtypes():
    exact = column_positions(torch.empty(500, 12, dtype=torch.float64))
    short = column_positions(torch.empty(500, 12, dtype=torch.bfloat16))
    assert short.dtype == torch.bfloat16
    torch.testing.assert_close(short.double(), exact, rtol=0, atol=5e-3)


@both
def test_the_same_weights_read_any_table(config):
    model = body(config)
    for b, r, c in [(1, 2, 1), (2, 3, 7), (1, 40, 5), (2, 9, 31)]:
        x = table(b, r, c)
        with torch.no_grad():
            y = model(x)
        assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all()
        assert model.float()(x.float()).dtype == torch.float32
        model.double()


@both
def test_permuted_context_rows_permute_the_output(config):
    model, x = body(config), table(2, 8, 6)
    order = [3, 0, 6, 1, 5, 2, 4, 7]
    with torch.no_grad():
        wanted, got = model(x)[:, order], model(x[:, order])
    torch.testing.assert_close(got, wanted)
    assert moved(wanted, model(x)).sum() == 7  # the rows do differ, the query stayed


@both
def test_a_table_does_not_see_the_others_of_its_batch(config):
    model, x = body(config), table(3, 5, 6)
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


@both
@pytest.mark.parametrize("row", [0, 3])
def test_the_query_reads_every_context_row(config, row):
    model, x = body(config), table(1, 5, 6)
    changed = with_new(x, row, 2)
    with torch.no_grad():
        difference = (model(x) - model(changed))[0].abs().amax(-1)
    assert (difference[-1] > 1e-6).all()  # at all its columns


def test_context_reads_the_query_in_msa_transformer_only():
    x = table(1, 5, 6)
    changed = with_new(x, -1, 2)
    for config, context in [(MSATransformerConfig, True), (SPINConfig, False)]:
        model = body(config)
        with torch.no_grad():
            assert moved(model(x), model(changed)).tolist() == [context] * 4 + [True]


@both
def test_a_token_reads_the_other_columns_of_its_row_from_the_row_itself(config):
    model, x = body(config), table(1, 5, 6)
    changed = with_new(x, -1, 2)
    with torch.no_grad():
        difference = (model(x) - model(changed))[0, -1].abs().amax(-1)
    assert (difference > 1e-6).all()


@both
def test_the_order_of_columns_matters(config):
    model, x = body(config), table(1, 5, 6)
    order = [1, 0, 2, 3, 4, 5]
    with torch.no_grad():
        assert moved(model(x)[:, :, order], model(x[:, :, order])).all()


@both
def test_every_parameter_learns(config):
    model, x = body(config), table(2, 6, 5)
    torch.manual_seed(5)
    F.mse_loss(model(x), torch.randn_like(x)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-9, name


@both
def test_dropout_is_for_training(config):
    model, x = body(config, dropout=0.3), table(1, 4, 5)
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
        torch.testing.assert_close(model(x), body(config)(x))
        model.train()
        assert moved(model(x), model(x)).all()


def test_spin_without_its_inducing_points_knows_no_context():
    model, x = body(SPINConfig), table(1, 5, 6)
    changed = with_new(x, slice(0, -1), 2)
    with torch.no_grad():
        assert moved(model(x), model(changed))[-1]
        model.read_points.attention.out.weight.zero_()
        assert not moved(model(x), model(changed))[-1]


@both
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"d_model": 0}, "d_model 0"),
        ({"d_model": 100.0}, "d_model 100.0"),
        ({"n_heads": -1}, "n_heads -1"),
        ({"n_heads": 7}, "n_heads 7.*d_model 100"),
        ({"n_layers": 0}, "n_layers 0"),
        ({"expand": 0}, "expand 0"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"dropout": -0.1}, "dropout -0.1"),
        ({"dropout": math.nan}, "dropout nan"),
        ({"dropout": "0.1"}, "dropout 0.1"),
    ],
)
def test_a_wrong_size_is_named(config, wrong, said):
    with pytest.raises(ConfigError, match=said) as error:
        config(**wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["inducing", "attributes"])
def test_spin_wants_points_and_attributes(name):
    with pytest.raises(ConfigError, match=f"{name} 0"):
        SPINConfig(**{name: 0})


@both
def test_the_defaults_are_allowed_and_frozen(config):
    with pytest.raises(AttributeError):
        config().d_model = 3
