"""Methods that prevent emergent misalignment, one module each. Doors: check, identity, framing and methods."""
