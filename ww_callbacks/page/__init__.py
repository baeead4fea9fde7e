"""The page that shows runs: what it is fed with, its server, its one-file form and its tab in TensorBoard."""
