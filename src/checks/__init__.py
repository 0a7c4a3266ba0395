"""Checks of a command before it starts: flags, values, and what needs the model's configuration and tokenizer."""
