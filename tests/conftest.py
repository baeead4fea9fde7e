"""This file puts its folder on the path: tests in all folders can import `processes`."""
