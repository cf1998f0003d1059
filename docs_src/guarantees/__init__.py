"""What the page about guarantees shows."""
