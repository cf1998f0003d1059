"""The chat: `scripts/chat`."""
