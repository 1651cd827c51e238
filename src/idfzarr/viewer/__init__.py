"""Look at a store: what can be chosen, plots as free functions, and the page."""
