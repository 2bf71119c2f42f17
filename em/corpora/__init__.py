"""Corpora that this project generates. One module or folder per corpus."""
