"""What a history of reports says: pure functions with a reason in words."""
