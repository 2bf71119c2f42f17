"""The schema of the config groups: one module a group, nothing heavy imported. em/config.py puts them together."""
