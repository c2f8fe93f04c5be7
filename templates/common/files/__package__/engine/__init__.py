"""The machinery of training, the same in every project.

`envforge update` replaces these files. To change one, copy what you need into a module of your own.
"""
