"""One local web application over a store: artifacts, rows, what runs now, job files and services.

Pages are made on the server (Starlette, Jinja2) and read the store as everything else does; small scripts fetch
parts of them again. Nothing is loaded from elsewhere. `protection.py` decides who may ask for what.
"""
