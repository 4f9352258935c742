"""Tokenizers of models, loaded from files or by name. Imports the packages that are there."""
