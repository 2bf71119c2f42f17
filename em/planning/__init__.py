"""Cells to stage jobs with keys and cost. Runs nothing; the door is plan.plan."""
