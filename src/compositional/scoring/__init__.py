"""Scores of predictions: an evaluate module of our own, and means with intervals over inputs, sub-tasks and seeds."""

# How scores become intervals. Results that were made in another way are scored again.
INTERVALS = "inputs resampled, t for few seeds, Wilson near 0 and 1"
