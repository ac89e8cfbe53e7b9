"""The parts of `scripts/bench`: processes, subjects, load, and report."""
