"""Keras models and Keras weights files. Imports nothing, so that files can be read without Keras."""
