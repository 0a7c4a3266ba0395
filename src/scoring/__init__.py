"""Scores of predictions: per example by evaluate modules of our own, and their means with bootstrap intervals."""
