"""What is measured and what came out: plain values, free of torch and pandas."""
