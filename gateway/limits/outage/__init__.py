"""What happens to limits while their store is away."""
