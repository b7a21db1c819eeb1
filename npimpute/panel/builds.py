"""Which human genome build a file is on, by the contig lengths of its header."""

from __future__ import annotations

from ..contigs import contig_key

_CHROMOSOMES = (*map(str, range(1, 23)), "X", "Y")
# Chromosomes 1 to 22, X and Y, from the assembly reports of GenBank (the same at UCSC). The mitochondrion is left out:
# it has one length in three of the builds. No length is that of one chromosome in two builds.
_LENGTHS = {
    "GRCh36 (hg18)": (
        *(247249719, 242951149, 199501827, 191273063, 180857866, 170899992, 158821424, 146274826),
        *(140273252, 135374737, 134452384, 132349534, 114142980, 106368585, 100338915, 88827254),
        *(78774742, 76117153, 63811651, 62435964, 46944323, 49691432, 154913754, 57772954),
    ),
    "GRCh37 (hg19)": (
        *(249250621, 243199373, 198022430, 191154276, 180915260, 171115067, 159138663, 146364022),
        *(141213431, 135534747, 135006516, 133851895, 115169878, 107349540, 102531392, 90354753),
        *(81195210, 78077248, 59128983, 63025520, 48129895, 51304566, 155270560, 59373566),
    ),
    "GRCh38 (hg38)": (
        *(248956422, 242193529, 198295559, 190214555, 181538259, 170805979, 159345973, 145138636),
        *(138394717, 133797422, 135086622, 133275309, 114364328, 107043718, 101991189, 90338345),
        *(83257441, 80373285, 58617616, 64444167, 46709983, 50818468, 156040895, 57227415),
    ),
    "T2T-CHM13v2.0 (hs1)": (
        *(248387328, 242696752, 201105948, 193574945, 182045439, 172126628, 160567428, 146259331),
        *(150617247, 134758134, 135127769, 133324548, 113566686, 101161492, 99753195, 96330374),
        *(84276897, 80542538, 61707364, 66210255, 45090682, 51324926, 154259566, 62460029),
    ),
}
_BUILDS = {
    (name, length): build
    for build, lengths in _LENGTHS.items()
    for name, length in zip(_CHROMOSOMES, lengths, strict=True)
}


def build_of(contigs: list[tuple[str, int | None]]) -> str | None:
    """The build of a header's (name, length in bp or None), as "GRCh37 (hg19)"; None unless its lengths name one alone.

    Contigs without length, or with one that no build has, say nothing.
    """
    found = {_BUILDS.get((contig_key(name), length)) for name, length in contigs} - {None}
    return found.pop() if len(found) == 1 else None
