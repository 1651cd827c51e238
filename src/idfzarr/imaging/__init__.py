"""Arrays in, arrays out: knows neither zarr nor dask nor the store."""
