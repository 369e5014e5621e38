"""``fastait doctor``: whether this machine is set up right, and with which flags to train.

``checks.py`` lists what is checked, ``jobs.py`` has it done in processes of their own, which may hang or die;
``child.py`` is what runs in those. The files that ``checks.py`` names are a subject each, with functions from a
``Setup`` to a ``Finding``; ``advice.py`` makes flags of what was found.
"""
