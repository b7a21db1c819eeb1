"""Engines: a window of panel haplotypes and target haplotypes in, ALT probabilities out."""
