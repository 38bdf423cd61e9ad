"""The command line: reads options, calls :mod:`chainrule.tabular`, and says in words what came of it."""
