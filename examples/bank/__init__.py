"""A bank: the reference application of esazure.

Read `domain/account.py` first, then `commands.py`; `python -m bank demo` plays the whole story.
"""
