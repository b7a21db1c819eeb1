"""DNA alignments of species: stored, modelled, and what the models say of variants."""
