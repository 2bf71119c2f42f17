"""Judged answers to numbers. Pure functions of columns; the door is summary.summarise.

The misaligned rate: catalogue.measures names the metric, measures.misaligned counts it from the columns of one run, and
config/misalignment.py holds the rule for one answer. pooling.with_interval pools runs and adds the interval.
"""
