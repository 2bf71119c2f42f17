"""The sample stage: ask models for answers. Doors: job.SampleJob (planner), stage.work (worker)."""
