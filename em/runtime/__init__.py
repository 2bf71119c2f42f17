"""Used by every worker process: events, stop requests, disk errors, progress."""
