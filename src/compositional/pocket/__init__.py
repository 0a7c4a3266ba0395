"""Pocket: a small benchmark of the paper's form that runs anywhere, offline, in minutes."""

# What verdicts and prepared sets record of the grammar. It needs a new value when what the grammar writes or judges changes.
GRAMMAR_REVISION = "277fa2047333fcf0cc4091cf4853054efb6cffae6d9470a607800a53ff24bcce"
# What verdicts record of `rules.grade`. It needs a new value when grades change.
GRADE_REVISION = "1"
