"""The networks that read DNA: their recurrences and attention against others' code, strands, sizes and files."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from npimpute.dna import tokens
from npimpute.dna.config import ARCHITECTURES, PRESETS, CaduceusConfig, HawkConfig, NTConfig, dna_config, preset
from npimpute.dna.model_files import load_model, new_model, save
from npimpute.dna.ntv2 import RotaryAttention, rotated, rotations
from npimpute.dna.rg_lru import RGLRU, BiRecurrentBlock
from npimpute.errors import ConfigError, InputError

SMALL = {
    "caduceus": CaduceusConfig(d_model=16, n_layers=2, d_state=4),
    "posthoc": CaduceusConfig(d_model=16, n_layers=2, d_state=4, reverse_complement="posthoc"),
    "hawk": HawkConfig(d_model=16, n_layers=2, d_rnn=24, n_blocks=3),
    "ntv2": NTConfig(d_model=32, n_layers=2, n_heads=2, d_mlp=48),
}
EVERY = pytest.mark.parametrize("name", SMALL)


def network(name, seed=0, **changes):
    """Small, with weights large enough that every part counts."""
    torch.manual_seed(seed)
    made = new_model(dataclasses.replace(SMALL[name], **changes))
    with torch.no_grad():
        made.embedding.weight.mul_(30)
    return made


def sequence(b, length, vocabulary=6, seed=1):
    return torch.randint(vocabulary, (b, length), generator=torch.Generator().manual_seed(seed))


def other_strand(x):
    return torch.from_numpy(tokens.COMPLEMENT)[x].flip(1)


def gemma(d_model, d_rnn, n_blocks):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    return transformers.RecurrentGemmaConfig(
        hidden_size=d_model,
        lru_width=d_rnn,
        num_attention_heads=n_blocks,
        conv1d_width=4,
        hidden_activation="gelu_pytorch_tanh",
    )


def randomised(module, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("carried", [False, True])
def test_rg_lru_is_transformers_with_the_same_weights(carried):
    config = gemma(16, 24, 3)
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

    ours, theirs = randomised(RGLRU(24, 3)), RecurrentGemmaRglru(config)
    theirs.load_state_dict(ours.state_dict())  # strict: the names and shapes are the released ones
    x = torch.randn(3, 41, 24, requires_grad=True)
    state = torch.randn(3, 24) if carried else None
    theirs.recurrent_states = state
    positions = torch.arange(41)[None].expand(3, -1) + (7 if carried else 0)
    wanted, (got, last) = theirs(x, positions), ours(x, state)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last, theirs.recurrent_states, rtol=1e-5, atol=1e-6)
    upstream = torch.randn_like(wanted)
    names = [name for name, _ in ours.named_parameters()]
    gradients = [
        torch.autograd.grad(y, [x, *(dict(module.named_parameters())[name] for name in names)], upstream)
        for y, module in ((got, ours), (wanted, theirs))
    ]
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() <= 2e-5 * b.abs().max()


def test_bidirectional_recurrent_block_is_two_of_transformers():
    config = gemma(16, 24, 3)
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

    ours = randomised(BiRecurrentBlock(16, 24, 3, 4))
    x = torch.randn(2, 30, 16)
    weights = ours.state_dict()
    shared = {name: value for name, value in weights.items() if name.startswith("linear_")}

    def direction(name, values):
        theirs = RecurrentGemmaRecurrentBlock(config, 0)
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        theirs.load_state_dict(shared | own)
        return theirs(values, torch.arange(30)[None], None, use_cache=False)[0]

    # The output's bias is there once, not once a direction.
    wanted = direction("rightward", x) + direction("leftward", x.flip(1)).flip(1) - weights["linear_out.bias"]
    torch.testing.assert_close(ours(x)[0], wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.leave_left(x), ours(x)[1][1])


def test_rg_lru_is_the_papers_equations():
    layer = randomised(RGLRU(6, 2)).double()
    x, h = torch.randn(1, 9, 6).double(), torch.randn(1, 6).double()
    got, _ = layer(x, h)
    for t in range(9):
        r, i = (
            torch.sigmoid(x[:, t] @ torch.block_diag(*weight) + bias.flatten())
            for weight, bias in (
                (layer.recurrent_gate_weight, layer.recurrent_gate_bias),
                (layer.input_gate_weight, layer.input_gate_bias),
            )
        )
        a = torch.sigmoid(-layer.recurrent_param) ** (8 * r)  # exp(-softplus(x)) = sigmoid(-x)
        h = a * h + torch.sqrt(1 - a**2) * (i * x[:, t])
        torch.testing.assert_close(got[:, t], h)


def test_rg_lru_begins_with_memories_short_and_long():
    torch.manual_seed(0)
    a = torch.exp(-F.softplus(RGLRU(4000, 4).recurrent_param))
    assert a.min() >= 0.9 - 1e-5 and a.max() <= 0.999 + 1e-5
    assert a.square().mean().item() == pytest.approx((0.9**2 + 0.999**2) / 2, abs=0.004)


def test_rg_lru_has_a_gradient_where_nothing_decays():
    layer = RGLRU(8, 2)
    with torch.no_grad():
        layer.recurrent_gate_bias.fill_(-200.0)  # r = 0, a = 1
    x = torch.randn(1, 5, 8, requires_grad=True)
    layer(x, torch.ones(1, 8))[0].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in (x, *layer.parameters()))


def test_half_precision_keeps_a_float32_recurrence():
    torch.manual_seed(0)
    block = BiRecurrentBlock(16, 24, 3, 4)
    x = torch.randn(2, 30, 16)
    wanted, _ = block(x)
    got, states = block.bfloat16()(x.bfloat16())
    assert got.dtype == torch.bfloat16 and {state.scan.dtype for state in states} == {torch.float32}
    torch.testing.assert_close(got.float(), wanted, rtol=0.1, atol=0.03)


def test_rotary_attention_is_turning_in_the_complex_plane():
    layer = randomised(RotaryAttention(32, 2)).double()
    x = torch.randn(2, 19, 32).double()
    got = layer(x, *(t.double() for t in rotations(19, 16, 3.0)))
    turns = torch.exp(1j * torch.arange(19).double()[:, None] / 3.0 * 10000.0 ** (-torch.arange(8).double() / 8))
    heads = []
    for h in range(2):
        part = slice(16 * h, 16 * h + 16)
        q, k, v = (project(x)[..., part] for project in (layer.query, layer.key, layer.value))
        q, k = (torch.complex(t[..., :8], t[..., 8:]) * turns for t in (q, k))
        logits = (q @ k.conj().transpose(1, 2)).real / math.sqrt(16)
        heads.append(logits.softmax(-1) @ v)
    torch.testing.assert_close(got, layer.out(torch.cat(heads, -1)), rtol=1e-5, atol=1e-5)


def test_rotation_is_that_of_transformers():
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k = torch.randn(2, 3, 25, 16), torch.randn(2, 3, 25, 16)
    cos, sin = rotations(25, 16, 1.0)
    wanted = apply_rotary_pos_emb(q, k, *(torch.cat([t, t], -1)[None] for t in (cos, sin)))
    for got, want in zip((rotated(q, cos, sin), rotated(k, cos, sin)), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_logits_of_rotated_pairs_tell_distance_only():
    q, k = torch.randn(16), torch.randn(16)
    cos, sin = rotations(400, 16, 1.0)
    logits = rotated(q.expand(400, 16), cos, sin) @ rotated(k.expand(400, 16), cos, sin).T
    torch.testing.assert_close(logits.diagonal(-7), logits[7, 0].expand(393), rtol=1e-4, atol=1e-4)


def test_position_interpolation_scales_positions():
    for scale in (2, 10):
        for long, short in zip(rotations(50 * scale, 16, scale), rotations(50, 16, 1.0), strict=True):
            torch.testing.assert_close(long[::scale], short)
    made = network("ntv2", position_interpolation=4.0)
    x = sequence(1, 40, 4102)
    squeezed = made(x)[0]
    made.position_interpolation = 1.0
    plain = made(x)[0]
    assert (squeezed - plain).abs().max() > 1e-3
    torch.testing.assert_close(plain, network("ntv2")(x)[0])


def test_ntv2_refuses_what_is_too_long():
    made = network("ntv2", max_tokens=20)
    assert made(sequence(1, 20))[0].shape == (1, 20, 4102)
    with pytest.raises(InputError, match="a window of 21 tokens: this ntv2 reads at most 20 at once"):
        made(sequence(1, 21))


def test_caduceus_is_equivariant_to_the_reverse_complement():
    made, x = network("caduceus"), sequence(2, 300)
    logits, hidden = made(x)
    other_logits, other_hidden = made(other_strand(x))
    complement = torch.from_numpy(tokens.COMPLEMENT)
    assert logits.shape == (2, 300, 6) and hidden.shape == (2, 300, made.width) == (2, 300, 32)
    torch.testing.assert_close(other_logits.flip(1)[..., complement], logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(other_hidden.flip(1, 2), hidden, rtol=0, atol=1e-5)
    assert logits.std() > 0.1


@pytest.mark.parametrize("name", ["posthoc", "hawk"])
def test_reading_one_strand_is_not_equivariant_and_averaging_is(name):
    made, x = network(name), sequence(2, 300)
    complement = torch.from_numpy(tokens.COMPLEMENT)
    logits, hidden = made(x)
    assert (made(other_strand(x))[0].flip(1)[..., complement] - logits).abs().max() > 1e-2
    both, both_hidden = made.averaged(x)
    other, other_hidden = made.averaged(other_strand(x))
    torch.testing.assert_close(other.flip(1)[..., complement], both, rtol=0, atol=1e-5)
    torch.testing.assert_close(other_hidden.flip(1), both_hidden, rtol=0, atol=1e-5)
    mirrored = made(other_strand(x))
    torch.testing.assert_close(both, (logits + mirrored[0].flip(1)[..., complement]) / 2)
    torch.testing.assert_close(both_hidden, (hidden + mirrored[1].flip(1)) / 2)


def test_caduceus_is_the_papers_halves_of_channels():
    made, x = network("caduceus"), sequence(2, 50)

    def rc(values):
        return values.flip(1, 2)

    def halves(module, values):
        one, two = values.chunk(2, -1)
        return torch.cat([module(one), rc(module(rc(two)))], -1)

    values = torch.cat([made.embedding(x), rc(made.embedding(other_strand(x)))], -1)
    for layer in made.layers:
        values = values + halves(lambda part, layer=layer: layer.mixer(layer.norm(part))[0], values)
    values = halves(made.norm, values)
    one, two = values.chunk(2, -1)
    weight, complement = made.head.weight, torch.from_numpy(tokens.COMPLEMENT)
    logits, hidden = made(x)
    torch.testing.assert_close(hidden, values)
    torch.testing.assert_close(logits, F.linear(one, weight) + F.linear(two.flip(-1), weight[complement]))


def test_only_bases_have_another_strand():
    with pytest.raises(ConfigError, match="a vocabulary of 4102: only the tokens of single bases"):
        network("hawk", vocabulary=4102).averaged(sequence(1, 5))
    with pytest.raises(ConfigError, match="vocabulary 4102: only the 6 tokens of bases"):
        CaduceusConfig(vocabulary=4102)


@EVERY
def test_a_token_reaches_both_sides_and_no_other_sequence(name):
    made, x = network(name), sequence(3, 60)
    changed = x.clone()
    changed[1, 30] = (changed[1, 30] + 1) % 4
    with torch.no_grad():
        before, after = made(x)[0], made(changed)[0]
        alone = made(x[1:2])[0]
    moved = (before - after).abs().amax(-1)
    assert moved[1, :29].max() > 1e-4 and moved[1, 31:].max() > 1e-4
    assert not moved[[0, 2]].any()
    torch.testing.assert_close(alone[0], before[1], rtol=1e-5, atol=1e-5)


@EVERY
def test_every_weight_is_learnt(name):
    made, x = network(name), sequence(2, 40, SMALL[name].vocabulary)
    F.cross_entropy(made(x)[0].transpose(1, 2), sequence(2, 40, SMALL[name].vocabulary, seed=2)).backward()
    for parameter, value in made.named_parameters():
        assert torch.isfinite(value.grad).all() and value.grad.any(), parameter


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_presets_have_their_sizes(architecture):
    def parameters(name):
        with torch.device("meta"):
            return sum(p.numel() for p in new_model(preset(architecture, name)).parameters())

    assert 45e6 <= parameters("base-50m") <= 55e6
    assert 200e3 <= parameters("tiny") <= 500e3
    assert all(config.architecture == architecture for config in PRESETS[architecture].values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_base_takes_a_training_step(architecture):
    torch.manual_seed(0)
    made = new_model(preset(architecture, "base-50m"))
    optimizer = torch.optim.SGD(made.parameters(), lr=0.01)
    x = sequence(1, 32)
    loss = F.cross_entropy(made(x)[0][0], x[0])
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        assert F.cross_entropy(made(x)[0][0], x[0]) < loss


def test_names_of_weights_are_stable():
    mamba = ["A_log", "D", "conv1d.bias", "conv1d.weight", "dt_proj.bias", "dt_proj.weight", "x_proj.weight"]
    lru = ["conv_1d.bias", "conv_1d.weight"]
    lru += [f"rg_lru.{g}_gate_{w}" for g in ("input", "recurrent") for w in ("bias", "weight")]
    lru += ["rg_lru.recurrent_param"]

    def both(names):
        return [f"mixer.{way}.{name}" for way in ("leftward", "rightward") for name in names]

    def linear(*names):
        return [f"{name}.{what}" for name in names for what in ("bias", "weight")]

    norms = ["mixer_norm.weight", "mlp_norm.weight"]
    layer = {
        "caduceus": both(mamba) + ["mixer.in_proj.weight", "mixer.out_proj.weight", "norm.weight"],
        "hawk": both(lru)
        + linear("mixer.linear_x", "mixer.linear_y", "mixer.linear_out")
        + linear("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        + norms,
        "ntv2": linear(*(f"attention.{name}" for name in ("query", "key", "value", "out")))
        + [f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
        + ["attention_norm.weight", "mlp_norm.weight"],
    }
    for name, names in layer.items():
        ends = ["embedding.weight", "norm.weight", "bias" if name == "ntv2" else "head.weight"]
        wanted = ends + [f"layers.{i}.{part}" for i in range(2) for part in names]
        assert sorted(new_model(SMALL[name]).state_dict()) == sorted(wanted)


@EVERY
def test_models_return_from_disk(name, tmp_path):
    made, x = network(name), sequence(1, 30)
    save(tmp_path / "model", made, made.config)
    back, config = load_model(tmp_path / "model")
    assert config == SMALL[name] and torch.equal(back(x)[0], made(x)[0])


def test_models_of_another_kind_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path)
    save(tmp_path, network("hawk"), SMALL["hawk"])
    config = tmp_path / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"hawk"', '"npssm"'))
    with pytest.raises(InputError, match="architecture npssm; a model of DNA is needed: caduceus, hawk, ntv2"):
        load_model(tmp_path)
    config.write_text(text.replace('"d_rnn": 24', '"d_rnn": 48'))
    with pytest.raises(InputError, match="weights of another model"):
        load_model(tmp_path)
    config.write_text(text.replace('"d_rnn": 24', '"d_rnn": 25'))
    with pytest.raises(ConfigError, match=r"config\.json: n_blocks 3: the blocks share d_rnn 25"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "mamba"}, "model: architecture mamba: choose from caduceus, hawk, ntv2"),
        ({"architecture": "caduceus", "layers": 3}, "no setting layers"),
        ({"architecture": "caduceus", "d_model": 0}, "d_model 0"),
        ({"architecture": "caduceus", "reverse_complement": "both"}, "choose from shared, posthoc"),
        ({"architecture": "hawk", "d_rnn": 10, "n_blocks": 3}, "n_blocks 3"),
        ({"architecture": "ntv2", "d_model": 64, "n_heads": 3}, "n_heads 3"),
        ({"architecture": "ntv2", "position_interpolation": 0}, "position_interpolation 0: above 0"),
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(ConfigError, match=message):
        dna_config(values)


def test_settings_know_the_vocabularies():
    assert HawkConfig().vocabulary == tokens.BASES_VOCABULARY
    assert NTConfig().vocabulary == tokens.SIX_MER_VOCABULARY
    with pytest.raises(ConfigError, match="these are the settings of hawk"):
        HawkConfig(architecture="ntv2")
    for call in (("mamba", "tiny"), ("hawk", "huge")):
        with pytest.raises(ConfigError, match="choose from"):
            preset(*call)
