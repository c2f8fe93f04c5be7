"""Use an environment: run commands, open shells, register Jupyter kernels, show information, and clean up.

``prefix`` finds the environment, ``activation`` computes what activating it changes, ``shells`` writes that for a
shell, and ``start`` replaces the process with the command.
"""
