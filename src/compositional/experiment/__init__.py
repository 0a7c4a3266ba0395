"""An experiment, from its command line to its results."""
