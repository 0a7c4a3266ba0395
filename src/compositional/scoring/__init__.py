"""Scores of predictions: an evaluate module of our own, and means with bootstrap intervals."""
