"""What runs: jobs of this machine by their logs, builds by their work folders, jobs of a cluster by Ray's Jobs API."""
