"""What runs on the hosts: the producer, the streaming job, and the tools that prove both.

The package is copied whole to each host that needs it (a release) and is run as
``python -m pipeline``. It never imports what runs on the controller.
"""
