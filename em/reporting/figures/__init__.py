"""Figures as data, and one renderer to PNG. The door is figures.draw."""
