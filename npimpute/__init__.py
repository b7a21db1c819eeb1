"""npimpute: genotype imputation that reads the reference panel at inference time."""

__version__ = "0.1.0"
