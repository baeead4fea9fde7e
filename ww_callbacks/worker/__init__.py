"""Runs the analysis outside the training thread: worker processes, threads and external executors."""
