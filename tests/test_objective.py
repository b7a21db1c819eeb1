"""The training objective, against the same written out cell by cell."""

import math

import numpy as np
import pytest
import torch

from npimpute.context.neighbours import MASKED
from npimpute.errors import ConfigError
from npimpute.train.objective import (
    LEAST_VARIANCE,
    MASKS,
    ObjectiveConfig,
    draw_mask,
    lambda_at,
    masked_tokens,
    total_loss,
)

B, R, C = 2, 5, 7
WANTED = torch.tensor([False, True, False, True, True, False, False])
FREQUENCY = torch.tensor([0.5, 0.01, 0.3, 0.2, 0.0001, 0.4, 0.9])


def table(seed: int = 0):
    """Logits, tokens of which some are not known, and a mask that reaches into the query's labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, R, C, generator=generator)
    tokens = torch.randint(0, 2, (B, R, C), generator=generator, dtype=torch.int8)
    tokens[0, -1, 3] = tokens[1, 0, 2] = tokens[1, -1, 0] = MASKED
    mask = torch.rand(B, R, C, generator=generator) < 0.4
    mask[0, -1, 1] = mask[0, -1, 3] = mask[1, 0, 2] = mask[1, -1, 0] = mask[1, -1, 5] = True
    return logits, tokens, mask


def by_hand(weights, logits, tokens, mask) -> tuple[float, float]:
    """L_MLM and L_aux. weights: of the wanted columns, by column."""
    mlm, aux = [], []
    for b in range(B):
        for r in range(R):
            for c in range(C):
                token, p = int(tokens[b, r, c]), 1 / (1 + math.exp(-float(logits[b, r, c])))
                if token == MASKED:
                    continue
                loss = -math.log(p if token == 1 else 1 - p)
                if r == R - 1 and WANTED[c]:
                    aux.append(loss * weights[c])
                elif mask[b, r, c]:
                    mlm.append(loss)
    return float(np.mean(mlm)), float(np.mean(aux))


def weights_of(auxiliary: str, share: float) -> dict[int, float]:
    columns = [1, 3, 4]
    raw = {c: 1 / max(float(FREQUENCY[c]) * (1 - float(FREQUENCY[c])), LEAST_VARIANCE) for c in columns}
    by_maf = {c: raw[c] / (sum(raw.values()) / 3) for c in columns}
    way = {"plain": 1.0, "maf": 0.0, "annealed": share}[auxiliary]
    return {c: (1 - way) * by_maf[c] + way for c in columns}


@pytest.mark.parametrize(
    ("anneal", "end", "values"),
    [("constant", 0.5, (1, 1, 1, 1)), ("linear", 0.5, (1, 0.875, 0.75, 0.5)), ("cosine", 0.01, (1, None, 0.505, 0.01))],
)
def test_lambda_goes_from_start_to_end(anneal, end, values):
    config = ObjectiveConfig(anneal=anneal, lambda_end=end)
    for share, wanted in zip((0, 0.25, 0.5, 1), values, strict=True):
        if wanted is None:
            wanted = 0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2
        assert lambda_at(config, share) == pytest.approx(wanted, abs=1e-12)


def test_lambda_may_rise():
    config = ObjectiveConfig(lambda_start=0.2, lambda_end=0.6)
    assert [lambda_at(config, s) for s in (0, 0.5, 1)] == pytest.approx([0.2, 0.4, 0.6])


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3])
def test_the_mask_hides_its_share(kind, rate):
    config = ObjectiveConfig(mask=kind, mask_rate=rate, span=5, lambda_end=0.5 if rate else 1.0)
    mask = draw_mask(config, (20, 100, 120), torch.Generator().manual_seed(1))
    assert (mask.shape, mask.dtype) == ((20, 100, 120), torch.bool)
    inner = mask[:, 5:, 5:].double().mean().item()
    assert inner == pytest.approx(rate, rel=0.03)


def runs(line: list[bool]) -> list[int]:
    """Lengths of the runs of True that neither begin nor end the line."""
    text = "".join("x" if value else " " for value in line).lstrip("x").rstrip("x")
    return [len(run) for run in text.split()]


@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_spans_run_along_their_axis_and_not_across(kind):
    config = ObjectiveConfig(mask=kind, mask_rate=0.1, span=6)
    mask = draw_mask(config, (3, 90, 90), torch.Generator().manual_seed(2))
    along = mask.transpose(1, 2) if kind == "rows" else mask
    lengths = [n for line in along.flatten(0, 1).tolist() for n in runs(line)]
    assert len(lengths) > 200 and min(lengths) == 6
    assert np.median(lengths) == 6, "most runs are one span"
    across = [n for line in along.transpose(1, 2).flatten(0, 1).tolist() for n in runs(line)]
    assert np.mean(across) < 1.3, "across, cells are masked one by one"


def test_tokens_are_masked_one_by_one():
    mask = draw_mask(ObjectiveConfig(mask="tokens", span=6), (3, 90, 90), torch.Generator().manual_seed(2))
    for axis in (1, 2):
        together = mask.narrow(axis, 1, 89) & mask.narrow(axis, 0, 89)
        assert together.double().mean().item() == pytest.approx(0.01, rel=0.2), "neighbours are independent"


def test_a_span_longer_than_the_table_reaches_its_end():
    mask = draw_mask(
        ObjectiveConfig(mask="rows", span=50, mask_rate=0.3), (50, 6, 40), torch.Generator().manual_seed(0)
    )
    fell = mask[:, :-1] & ~mask[:, 1:]
    assert mask.any() and not mask.all() and not fell.any()
    assert mask[:, -1].double().mean().item() == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("kind", MASKS)
def test_a_seed_is_a_mask(kind):
    config = ObjectiveConfig(mask=kind)
    first, again, other = (draw_mask(config, (2, 30, 40), torch.Generator().manual_seed(s)) for s in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_mask_and_the_query_s_labels_are_hidden_and_nothing_else():
    _, tokens, mask = table()
    before = tokens.clone(), mask.clone()
    seen = masked_tokens(tokens, mask, WANTED)
    assert torch.equal(tokens, before[0]) and torch.equal(mask, before[1]), "arguments are left as they were"
    for b in range(B):
        for r in range(R):
            for c in range(C):
                hidden = bool(mask[b, r, c]) or (r == R - 1 and bool(WANTED[c]))
                assert seen[b, r, c] == (MASKED if hidden else tokens[b, r, c])
    assert seen.dtype == tokens.dtype


@pytest.mark.parametrize("auxiliary", ["plain", "maf", "annealed"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_is_that_written_by_hand(auxiliary, share):
    config = ObjectiveConfig(auxiliary=auxiliary, lambda_start=0.9, lambda_end=0.4)
    logits, tokens, mask = table()
    mlm, aux = by_hand(weights_of(auxiliary, share), logits, tokens, mask)
    weight = 0.9 - 0.5 * share
    total, parts = total_loss(config, logits, tokens, mask, WANTED, FREQUENCY, share)
    assert parts == pytest.approx({"loss": total.item(), "mlm": mlm, "aux": aux, "lambda": weight}, rel=1e-5)
    assert total.item() == pytest.approx((1 - weight) * mlm + weight * aux, rel=1e-5)


def reached(config, share=0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cells whose logits the loss depends on, with the tokens and the mask."""
    logits, tokens, mask = table()
    logits.requires_grad_()
    total_loss(config, logits, tokens, mask, WANTED, FREQUENCY, share)[0].backward()
    return logits.grad != 0, tokens, mask


def test_each_part_depends_on_its_own_known_cells():
    labels = torch.zeros(B, R, C, dtype=torch.bool)
    labels[:, -1, WANTED] = True
    cells, tokens, mask = reached(ObjectiveConfig(lambda_start=1))
    assert torch.equal(cells, labels & (tokens != MASKED))
    cells, tokens, mask = reached(ObjectiveConfig(lambda_start=0))
    assert torch.equal(cells, mask & ~labels & (tokens != MASKED))
    assert (mask & labels).any() and (mask[:, -1] & ~WANTED).any(), "the mask covers labels and other query cells"


def test_nothing_masked_and_nothing_known_is_no_loss_and_not_nan():
    logits, tokens, mask = table()
    parts = total_loss(ObjectiveConfig(), logits, tokens, torch.zeros_like(mask), WANTED, FREQUENCY, 0.5)[1]
    assert parts["mlm"] == 0 and parts["aux"] > 0
    parts = total_loss(ObjectiveConfig(), logits, torch.full_like(tokens, MASKED), mask, WANTED, FREQUENCY, 0.5)[1]
    assert (parts["loss"], parts["mlm"], parts["aux"]) == (0, 0, 0)


def column_weights(auxiliary: str, share: float) -> torch.Tensor:
    """Weights of the wanted columns, seen from outside: the loss when only one of them costs anything.

    Logits of 0 cost log 2, those of 30 with an ALT nothing.
    """
    found = []
    for column in torch.arange(C)[WANTED]:
        logits, tokens = torch.full((1, R, C), 30.0), torch.ones(1, R, C, dtype=torch.int8)
        logits[0, -1, column] = 0
        nothing = torch.zeros(1, R, C, dtype=torch.bool)
        config = ObjectiveConfig(auxiliary=auxiliary, anneal="constant")
        found.append(3 * total_loss(config, logits, tokens, nothing, WANTED, FREQUENCY, share)[0] / math.log(2))
    return torch.stack(found)


def test_rare_sites_weigh_more_until_they_do_not():
    maf, early, middle, late = (
        column_weights(a, s) for a, s in (("maf", 0.7), ("annealed", 0.0), ("annealed", 0.5), ("annealed", 1.0))
    )
    for weights in (maf, early, middle, late):
        assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    assert maf[2] > maf[0] > maf[1], "0.0001, 0.01, 0.2"
    assert maf[2] / maf[1] == pytest.approx(0.16 / LEAST_VARIANCE, rel=1e-4), "and the rarest no more than that"
    torch.testing.assert_close(early, maf)
    torch.testing.assert_close(late, torch.ones(3))
    torch.testing.assert_close(middle, (maf + 1) / 2)
    torch.testing.assert_close(column_weights("plain", 0.0), torch.ones(3))


def test_ref_and_alt_are_alike_in_the_weights():
    logits, tokens, mask = table()
    config = ObjectiveConfig(auxiliary="maf")
    one, other = (total_loss(config, logits, tokens, mask, WANTED, f, 0)[0] for f in (FREQUENCY, 1 - FREQUENCY))
    assert one.item() == pytest.approx(other.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "cells"}, "mask cells: choose from tokens, rows, columns"),
        ({"anneal": "step"}, "anneal step"),
        ({"auxiliary": "none"}, "auxiliary none"),
        ({"mask_rate": 1.0}, "mask_rate 1.0"),
        ({"mask_rate": -0.1}, "mask_rate -0.1"),
        ({"mask_rate": float("nan")}, "mask_rate nan"),
        ({"span": 0}, "span 0"),
        ({"lambda_start": 1.1}, "lambda_start 1.1"),
        ({"lambda_end": -0.1}, "lambda_end -0.1"),
        ({"mask_rate": 0}, "lambda must be 1"),
    ],
    ids=str,
)
def test_a_bad_objective_is_refused_in_one_line(options, message):
    with pytest.raises(ConfigError, match=f"objective.{message}" if "must" not in message else message) as refusal:
        ObjectiveConfig(**options)
    assert "\n" not in str(refusal.value)


def test_nothing_need_be_masked_where_lambda_is_1():
    assert ObjectiveConfig(mask_rate=0, lambda_end=1).mask_rate == 0
