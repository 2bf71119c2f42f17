"""Directions in the residual stream: artefact.Direction is the door, artefact.load reads a stored one."""
