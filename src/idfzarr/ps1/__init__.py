"""Pan-STARRS1: the skycell grid, TESS fields on it, pixels, and the skycell store."""
