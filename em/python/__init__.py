"""The Python interface: a sweep as an object, its numbers as data frames, its models to ask. Names of it are in em."""
