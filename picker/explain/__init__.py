"""Kept decisions as documents and in words. Imports the rest of the picker."""
