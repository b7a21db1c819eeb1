"""Long-range models of DNA: sequence in, predictions at any length."""
