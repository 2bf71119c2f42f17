"""The judge stage: answers to verdicts. The doors: job.JudgeJob for the planner, stage.work for the worker."""
