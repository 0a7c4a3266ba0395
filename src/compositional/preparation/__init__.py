"""Making the benchmark's data sets: from sources through text models and a quality gate to folders with a card each.

`__main__` is the command. `plan` has its flags and decides which sets are made. `prepare` makes them one after another:
`sets` reads sources and saves folders, `rewriting` rewrites targets with a text model, `quality` reports findings, and
`card` describes a set.
"""
