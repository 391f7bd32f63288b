"""Lightning callbacks: averages, pictures and tables during a training, budgets, and what ends a run that fails. Open
`base.py` first; `app/trainer.py` puts them in order."""
