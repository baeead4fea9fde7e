"""Checkpoints of Orbax: folders with a description of a tree, and its arrays as the package tensorstore reads them."""
