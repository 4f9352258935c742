"""From measurements of real servers to profiles, and from profiles to predictions."""
