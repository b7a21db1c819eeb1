"""Linear recurrences without a model: one readable reference, fast backends that must match it, one place to choose."""
