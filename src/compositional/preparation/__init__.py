"""Making the benchmark's data sets: from sources through text models and a quality gate to folders with a card each.

`__main__` runs the command; `plan` decides what there is to make; `session` makes it, set by set: `rewriting` the targets,
`quality` looks at them, `saving` writes the folder, `lengths` and `card` the report.
"""

from __future__ import annotations
