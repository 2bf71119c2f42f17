"""A real SLURM on one machine, for trying a submission and for the tests."""
