"""Corpora that this project generates: one module or folder per corpus, with VERSION, VARIANTS, rows() and count()."""
