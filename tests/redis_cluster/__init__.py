"""What only `redis://...?cluster=true` must show, on a real Redis Cluster."""
