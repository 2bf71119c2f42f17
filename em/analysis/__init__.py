"""Further measurements on the models of a finished sweep. The doors: benchmark.work, inspect_model.EmModel."""
