"""The examples of the README, letter by letter."""
