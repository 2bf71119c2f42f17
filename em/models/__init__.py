"""Base models: where they are, what identifies them, how much memory they need."""
