"""Where trials train: TorchTrainers that stay up and take one trial after another."""
