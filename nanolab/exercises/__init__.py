"""Checks of the notebooks' exercises: one file a notebook. The test suite uses the same ones."""
