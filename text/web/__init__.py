"""Pages from the web: lists of URLs in, archives of pages out. The program is datasets/openwebtext/download.py.

urls and url_lists say which URLs there are, frontier keeps them on disk, robots, hosts and visit decide how one is
fetched, crawl fetches all of them at once, journal makes every finished one survive, archives writes the result.
"""
