"""How good a judge is: labelled answers, agreement, calibration tables."""
