"""What each operator is: see records.py. The rules stand one file a family; rules.py registers them all."""
