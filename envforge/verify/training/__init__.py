"""Answer the third question, whether the project trains on this machine.

The project's interpreter measures each GPU in a process with a time limit.
"""
