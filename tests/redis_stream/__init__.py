"""What only `redis-stream://` must show, on a real Redis."""
