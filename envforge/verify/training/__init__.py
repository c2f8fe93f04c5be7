"""The third question: does it train? Measured in the project's interpreter, one process a GPU, with a time limit."""
