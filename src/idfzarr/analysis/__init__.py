"""Statistics on arrays, and the doors of xarray."""
