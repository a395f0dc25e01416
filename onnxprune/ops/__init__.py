"""The records of operators: see records.py. There is one file per family; rules.py registers them all."""
