"""A stretch of one contig, as a user writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from npimpute.contigs import contig_key
from npimpute.errors import ConfigError

_WRITTEN = re.compile(r"(?P<contig>[^\s:]+)(?::(?P<start>[\d,]+)(?P<dash>-(?P<end>[\d,]+)?)?)?")
_EXAMPLES = "write chr20, chr20:1,000-2,000, chr20:1000- or chr20:1000"


@dataclass(frozen=True)
class Region:
    """Positions start..end (1-based, both included) of one contig; ``end`` None is the contig's end."""

    contig: str
    start: int = 1
    end: int | None = None

    def __post_init__(self) -> None:
        if not self.contig:
            raise ConfigError(f"region without a contig name; {_EXAMPLES}")
        if self.start < 1 or (self.end is not None and self.end < self.start):
            raise ConfigError(f"region {self}: positions count from 1 and the end is not before the start; {_EXAMPLES}")

    @classmethod
    def parse(cls, text: str) -> Region:
        """The region that ``text`` names: "20", "20:5" (one position), "20:5-" or "20:1,000-2,000".

        Raises ConfigError when it is none of these.
        """
        found = _WRITTEN.fullmatch(text.strip())
        if found is None:
            raise ConfigError(f"region {text!r} is not understood; {_EXAMPLES}")
        if found["start"] is None:
            return cls(found["contig"])
        start = _number(found["start"], text)
        if found["dash"] is None:
            return cls(found["contig"], start, start)
        return cls(found["contig"], start, None if found["end"] is None else _number(found["end"], text))

    def __str__(self) -> str:
        if self.end is None:
            return self.contig if self.start == 1 else f"{self.contig}:{self.start}-"
        return f"{self.contig}:{self.start}-{self.end}"

    def has_contig(self, contig: str) -> bool:
        """Whether ``contig`` is this region's, whatever naming style the two use (20 or chr20, MT or chrM)."""
        return contig_key(contig) == contig_key(self.contig)


def _number(digits: str, text: str) -> int:
    """The integer in ``digits``, where commas may part the thousands."""
    if re.fullmatch(r"\d+|\d{1,3}(,\d{3})+", digits) is None:
        raise ConfigError(f"region {text!r}: {digits!r} is not a position; {_EXAMPLES}")
    return int(digits.replace(",", ""))
