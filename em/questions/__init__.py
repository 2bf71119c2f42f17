"""Question sets, their forms, choices and rubrics. The doors: sets.load and rubrics.rubrics."""
