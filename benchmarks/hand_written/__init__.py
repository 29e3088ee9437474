"""Losses as people write them, in PyTorch scripts of each habit, beside the line of vaefast that takes their place. The
formulas are the papers'; the code is written here."""

from . import audio, counts, disentanglement, graphs, hierarchical, images, importance, recommenders, sequences

HABITS = (images, disentanglement, sequences, graphs, hierarchical, audio, recommenders, counts, importance)
ROWS = {row.name: row for habit in HABITS for row in habit.ROWS}
