"""What is documented is tried: the README, every snippet, and what the pages say in tables."""
