"""Look at a store, mend it, take out of it, bring old ones in."""
