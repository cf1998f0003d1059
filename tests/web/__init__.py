"""The web layer as a user sees it: real servers, real clients."""
