"""What the page for users of encode/broadcaster shows."""
