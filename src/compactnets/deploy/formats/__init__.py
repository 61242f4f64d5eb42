"""The formats of devices' runtimes, a module each; :mod:`compactnets.deploy.formats.registry` lists them."""
