"""The first question: the machine against itself and against the lock, without torch, in two seconds."""
