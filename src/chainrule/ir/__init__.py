"""The intermediate representation: typed, immutable graphs of a few dozen primitives."""
