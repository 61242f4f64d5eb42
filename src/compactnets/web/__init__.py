"""The page of ``compactnets web``: built, filled with networks, served."""
