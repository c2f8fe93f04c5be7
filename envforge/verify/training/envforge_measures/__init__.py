"""The program that ``verify train`` runs in the project's own interpreter: torch and the project alone.

Enters: one JSON object as the only argument. Leaves: marked lines of JSON on stdout, each as soon as it is known.
Written for Python 3.8 and torch 2.0 and later.
"""
