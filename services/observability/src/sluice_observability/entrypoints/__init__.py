"""What starts a process, and what the outside calls."""
