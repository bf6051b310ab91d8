"""What a finished run has come to: figures, plots and pages."""
