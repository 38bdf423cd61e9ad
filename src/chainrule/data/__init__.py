"""Tables from files and data frames, preprocessing that is part of the graph, and batches."""
