"""The pages of docs/reference, each made from one part of the code."""
