"""A finished sweep to what a person reads: summary, table, figures, page. The door is write.write."""
