"""The train stage: finetune a model on rows with TRL. Doors: job.TrainJob (planner), stage.work (worker)."""
