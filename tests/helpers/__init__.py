"""Servers, web sites, and small runs that several tests share."""
