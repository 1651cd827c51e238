"""Strategies and fault injectors, for our tests and our users'."""
