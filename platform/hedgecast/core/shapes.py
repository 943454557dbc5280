"""Axis legend of the project; every public signature uses these letters.

    B  windows (contexts: one decision each)
    S  scenarios of one window
    T  time steps of the decision period
    F  series (what is uncertain)
    C  context features
    D  entries of a program's uncertain parameters, in declaration and C order
    N  entries of a program's decision variables, in declaration and C order
    M  constraints
    K  noise levels

Inside a function that mixes three ranks or more, names carry the axes: ``paths_BSTF``.
"""
