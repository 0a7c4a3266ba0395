"""Language models: loading, identity, and encoding of text as tokens."""
