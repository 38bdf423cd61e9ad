"""The other frameworks: each builds the same steps from the same weights, in the form in which it is fastest."""
