"""Training rows: variants, mixtures, subsets, hold-out and triggers. The doors: variants.build and variants.count."""
