"""What every room uses and that knows nothing of models or tasks: files, flags, errors, logs, locks, processes."""
