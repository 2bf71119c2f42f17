"""What every worker process uses: events, stop requests, disk, progress."""
