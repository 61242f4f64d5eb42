"""The formats of device runtimes, one module each; :mod:`compactnets.deploy.formats.registry` lists them."""
