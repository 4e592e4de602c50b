"""The only place that touches a device: one runner a file."""
