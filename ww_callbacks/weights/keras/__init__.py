"""Keras models and Keras's weights files. Imports nothing: the files are read without Keras."""
