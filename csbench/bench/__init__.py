"""From a case to a record: build, prove correct, time against the baseline, write down.

The parent process (plan, runner) never imports torch; worker processes do.
"""
