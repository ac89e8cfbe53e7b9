"""What `scripts/bench` is made of: processes, who is measured, the load on them, and what is said of it."""
