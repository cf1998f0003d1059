"""What the page about backends shows."""
