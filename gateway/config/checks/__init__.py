"""Checks between sections, and of the policies and tokenizers that they name."""
