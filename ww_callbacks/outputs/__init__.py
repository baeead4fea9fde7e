"""Where results are shown."""
