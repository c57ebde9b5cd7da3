"""The reference pages, each a function of the code alone."""
