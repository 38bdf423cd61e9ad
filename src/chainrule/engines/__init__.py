"""Engines run graphs. They know nothing of gradients; ``reference`` defines what every primitive means."""
