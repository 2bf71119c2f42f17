"""The train stage: rows to an adapter with TRL. The doors: job.TrainJob for the planner, stage.work for the worker."""
