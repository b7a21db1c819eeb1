"""The reference panel: haplotypes, genetic map, and how target sites fall onto panel sites."""
