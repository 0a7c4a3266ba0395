"""Language models: where they are loaded from, their identity, and how text becomes their tokens."""
