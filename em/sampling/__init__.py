"""The sample stage: models to answers. The doors: job.SampleJob for the planner, stage.work for the worker."""
