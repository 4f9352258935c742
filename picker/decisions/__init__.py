"""The last decisions of a picker: what was weighed, and what came of it. Imports state and what is
below it."""
