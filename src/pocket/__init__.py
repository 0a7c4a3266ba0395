"""Pocket: a small benchmark of the paper's form that runs anywhere, offline, in minutes."""
