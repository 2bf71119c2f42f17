"""Figures as data, and one renderer to PNG and SVG. The doors are figures.figures and figures.draw."""
