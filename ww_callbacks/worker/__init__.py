"""Where the analysis runs: a process of its own that computes numpy and scipy only."""
