"""Shared foundations, independent of models and tasks: files, flags, errors, logs, locks, processes."""
