"""What the processes do with what arrives."""
