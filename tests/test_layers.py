"""Mamba layers against transformers' mixer, pieces against the whole, and the two directions."""

import pytest
import torch

from npimpute.layers import BiMamba, Mamba


def layer(kind, seed=0, **sizes):
    torch.manual_seed(seed)
    return kind(12, d_state=4, **sizes).double().eval()


@pytest.mark.parametrize(("width", "expand", "state", "rank"), [(24, 2, 8, 2), (16, 1, 16, "auto"), (40, 3, 3, "auto")])
def test_mamba_is_transformers_mixer_with_the_same_weights(width, expand, state, rank):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers.models.mamba.modeling_mamba import MambaMixer

    torch.manual_seed(1)
    ours = Mamba(width, state, 4, expand, rank)
    config = transformers.MambaConfig(
        hidden_size=width, state_size=state, conv_kernel=4, expand=expand, time_step_rank=ours.dt_rank, use_bias=False
    )
    theirs = MambaMixer(config, layer_idx=0)
    theirs.load_state_dict(ours.state_dict())  # strict: the names and shapes are the official ones
    x = torch.randn(3, 41, width, requires_grad=True)
    wanted, (got, _) = theirs(x), ours(x)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    upstream = torch.randn_like(wanted)
    for a, b in zip(
        torch.autograd.grad(got, [x, *ours.parameters()], upstream),
        torch.autograd.grad(
            wanted, [x, *(dict(theirs.named_parameters())[n] for n, _ in ours.named_parameters())], upstream
        ),
        strict=True,
    ):
        assert (a - b).abs().max() <= 2e-5 * b.abs().max().clamp(min=1e-3)


@pytest.mark.parametrize("size", [1, 2, 5, 16, 29])
def test_mamba_in_pieces_is_the_whole(size):
    model = layer(Mamba)
    x = torch.randn(2, 30, 12).double()
    whole, end = model(x)
    state, pieces = None, []
    for part in x.split(size, 1):
        y, state = model(part, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole)
    torch.testing.assert_close(state, end)


def test_mamba_sees_the_past_only_and_bimamba_both_sides():
    x = torch.randn(1, 20, 12).double()
    changed = x.clone()
    changed[:, 10] += 1
    one, both = layer(Mamba), layer(BiMamba)
    moved = (one(x)[0] - one(changed)[0]).abs().sum(-1)[0] > 1e-9
    assert not moved[:10].any() and moved[10:].any()
    moved = (both(x)[0] - both(changed)[0]).abs().sum(-1)[0] > 1e-9
    assert moved[:10].any() and moved[11:].any()


def test_bimamba_is_two_mambas_with_the_same_projections():
    both, one = layer(BiMamba), layer(Mamba, seed=5)
    projections = {
        name: value for name, value in both.state_dict().items() if "_proj." in name and name.count(".") == 1
    }
    x = torch.randn(2, 25, 12).double()

    def direction(mixer, values):
        one.load_state_dict({**getattr(both, mixer).state_dict(), **projections})
        return one(values)[0]

    wanted = direction("rightward", x) + direction("leftward", x.flip(1)).flip(1)
    torch.testing.assert_close(both(x)[0], wanted)
    assert sorted(projections) == ["in_proj.weight", "out_proj.weight"]


def test_bimamba_mirrors_when_its_directions_are_exchanged():
    both = layer(BiMamba)
    x = torch.randn(2, 25, 12).double()
    forward = both(x)[0]
    both.rightward, both.leftward = both.leftward, both.rightward
    torch.testing.assert_close(both(x.flip(1))[0].flip(1), forward)


def test_bimamba_in_pieces_needs_two_sweeps_and_is_then_the_whole():
    model = layer(BiMamba)
    x = torch.randn(2, 30, 12).double()
    whole = model(x)[0]
    parts = x.split(8, 1)
    from_left, from_right = [None], [None]
    for part in parts[:-1]:
        from_left.append(model(part, (from_left[-1], None))[1][0])
    for part in reversed(parts[1:]):
        from_right.append(model(part, (None, from_right[-1]))[1][1])
    states = zip(from_left, reversed(from_right), strict=True)
    pieces = [model(part, state)[0] for part, state in zip(parts, states, strict=True)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole)


def test_half_precision_keeps_a_float32_recurrence():
    torch.manual_seed(0)
    model = Mamba(12, d_state=4)
    x = torch.randn(2, 30, 12)
    wanted, _ = model(x)
    got, state = model.bfloat16()(x.bfloat16())
    assert got.dtype == torch.bfloat16 and state.scan.dtype == torch.float32
    torch.testing.assert_close(got.float(), wanted, rtol=0.1, atol=0.02)


def test_steps_begin_in_their_range():
    torch.manual_seed(0)
    steps = torch.nn.functional.softplus(Mamba(64).dt_proj.bias)
    assert steps.min() >= 1e-3 - 1e-6 and steps.max() <= 0.1 + 1e-6 and steps.std() > 0.01
