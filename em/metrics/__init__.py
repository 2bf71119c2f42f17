"""Judged answers to numbers. Pure functions of columns; the door is summary.summarise."""
