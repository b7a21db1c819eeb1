"""A long sequence in chunks is the whole one, in flat memory, and its temporary file leaves nothing behind."""

import dataclasses
import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from npimpute.dna.chunked import Scratch, stream
from npimpute.dna.config import CaduceusConfig, HawkConfig, NTConfig
from npimpute.dna.model_files import new_model
from npimpute.errors import ConfigError, InputError

SHARED = CaduceusConfig(d_model=16, n_layers=2, d_state=4)
CONFIGS = {
    "shared": SHARED,
    "posthoc": dataclasses.replace(SHARED, reverse_complement="posthoc"),
    "hawk": HawkConfig(d_model=16, n_layers=2, d_rnn=24, n_blocks=3),
}
# Networks and whether both strands of theirs are averaged.
READ = pytest.mark.parametrize(
    ("name", "averaged"), [("shared", False), ("posthoc", False), ("posthoc", True), ("hawk", False), ("hawk", True)]
)


def network(name, **changes):
    """Small, with weights large enough, and memory long enough, that what lies beyond a cut counts."""
    torch.manual_seed(0)
    made = new_model(dataclasses.replace(CONFIGS[name], **changes))
    with torch.no_grad():
        made.embedding.weight.mul_(50)
    return made


def sequence(length, seed=1):
    return np.random.default_rng(seed).integers(0, 5, length, dtype=np.int8)


def whole(made, tokens, averaged=False):
    with torch.no_grad():
        logits, hidden = (made.averaged if averaged else made)(torch.from_numpy(tokens.astype(np.int64))[None])
    return logits[0], hidden[0]


def joined(pieces):
    starts, logits, hidden = zip(*pieces, strict=True)
    ends = np.cumsum([len(x) for x in logits])
    assert list(starts) == [0, *ends[:-1]]
    return torch.cat(logits), torch.cat(hidden)


@READ
def test_chunks_are_the_whole_at_20_kb(name, averaged):
    made, tokens = network(name), sequence(20_000)
    wanted = whole(made, tokens, averaged)
    assert wanted[0].std() > 0.1
    for chunk in (999, 4096, 19_999, 30_000):
        got = joined(stream(made, tokens, chunk, averaged=averaged))
        for one, two in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


@READ
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 50, 99, 100, 101])
def test_chunks_of_any_size_are_the_whole(name, averaged, chunk):
    made, tokens = network(name).double(), sequence(101)
    got, wanted = joined(stream(made, tokens, chunk, averaged=averaged)), whole(made, tokens, averaged)
    assert {len(x) for _, x, _ in list(stream(made, tokens, chunk))[:-1]} <= {chunk}
    for one, two in zip(got, wanted, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, two, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_lies_beyond_a_cut_counts(name):
    """Without it the test above would say nothing."""
    made, tokens = network(name), sequence(400)
    logits, _ = whole(made, tokens)
    alone, _ = whole(made, tokens[100:300])
    differ = (alone - logits[100:300]).abs().amax(-1)
    assert differ[:20].max() > 1e-3 and differ[-20:].max() > 1e-3  # from the left, and from the right


def test_one_layer_and_a_wide_convolution():
    made, tokens = network("shared", n_layers=1, d_conv=6), sequence(40)
    torch.testing.assert_close(joined(stream(made, tokens, 3)), whole(made, tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_tokens_of_any_kind(kind):
    made, tokens = network("hawk"), sequence(50)
    for chunk in ([8], []):
        torch.testing.assert_close(joined(stream(made, tokens.astype(kind), *chunk)), whole(made, tokens))


def test_tokens_are_read_as_they_are_needed(tmp_path):
    tokens = np.memmap(tmp_path / "tokens", np.int8, "w+", shape=(60,))
    tokens[:] = sequence(60)
    made = network("shared")
    torch.testing.assert_close(joined(stream(made, tokens, 7)), whole(made, np.array(tokens)), rtol=0, atol=1e-5)


def test_half_precision_is_kept_exactly_between_layers():
    made, tokens = network("hawk").bfloat16(), sequence(40)
    logits, hidden = joined(stream(made, tokens, 40))
    assert logits.dtype == hidden.dtype == torch.bfloat16
    torch.testing.assert_close((logits, hidden), whole(made, tokens), rtol=0, atol=0)


def test_no_tokens_are_no_pieces():
    assert list(stream(network("hawk"), sequence(0), 10)) == []


def test_progress_ends_at_one_and_gradients_stay_as_they_were():
    shares, grad = [], []
    pieces = stream(network("shared"), sequence(50), 20, progress=shares.append)
    for _, logits, _ in pieces:
        grad.append(torch.is_grad_enabled())
        assert not logits.requires_grad
    assert shares == sorted(set(shares)) and shares[-1] == 1
    assert len(shares) == 3 * (2 * 2 + 1) and grad == [True] * 3


def test_what_cannot_be_streamed_is_told_at_once():
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match="--chunk: only caduceus and hawk"):
        stream(new_model(NTConfig(d_model=32, n_layers=1, n_heads=2, d_mlp=32)), sequence(10))
    with pytest.raises(ConfigError, match="--chunk 0: at least 1"):
        stream(network("hawk"), sequence(10), 0)


def test_the_temporary_file_is_where_it_is_asked_for_and_leaves_nothing(tmp_path, monkeypatch):
    written = []
    real = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda fd, part, at: written.append(os.readlink(f"/proc/self/fd/{fd}")) or real(fd, part, at)
    )
    pieces = stream(network("hawk"), sequence(50), 20, scratch=tmp_path)
    next(pieces)
    pieces.close()
    assert written and all(name.startswith(str(tmp_path)) for name in written)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="none: cannot be written: No such file"):
        next(stream(network("hawk"), sequence(50), 20, scratch=tmp_path / "none"))


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    def full(fd, part, at):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError, match="no space left on .*: free some or write elsewhere"):
        list(stream(network("hawk"), sequence(50), 20, scratch=tmp_path))


def test_writes_and_reads_in_parts(monkeypatch):
    """The system may move less than it was asked to."""
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, part, at: write(fd, part[:100], at))
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: read(fd, [parts[0][:70]], at))
    rows = np.arange(400, dtype=np.float32).reshape(100, 4)
    file = Scratch(None, 4, np.float32)
    file.write(10, rows)
    np.testing.assert_array_equal(file.read(13, 60), rows[3:50])
    with pytest.raises(InputError, match="ends before"):
        file.read(100, 120)
    file.close()


def test_memory_does_not_grow_with_the_length():
    code = """
import resource, sys
import numpy as np, torch
from npimpute.dna.chunked import stream
from npimpute.dna.config import CaduceusConfig
from npimpute.dna.model_files import new_model
torch.set_num_threads(1)
made = new_model(CaduceusConfig(d_model=16, n_layers=1, d_state=2))
peaks = []
for length in (20_000, 20_000, 200_000):
    for _, logits, hidden in stream(made, np.zeros(length, np.int8), 2048):
        pass
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(*peaks)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    _, short, long = map(int, done.stdout.split())
    # What is between two layers alone would be 25 MB.
    assert long - short < 6 * 1024
