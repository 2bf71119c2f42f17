"""Judged files of other people become sweep folders. The doors: sweep.write (judged answers), rates.write (rates)."""
