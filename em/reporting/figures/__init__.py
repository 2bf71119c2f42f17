"""Figures as data, and as Vega-Lite charts. The doors are figures.figures, figures.draw and chart.chart."""
