"""Dosages and what they are worth: R2, DR2, ER2, INFO."""
