"""The commands of ``penstock lab``, one module each."""
