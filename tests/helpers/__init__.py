"""Servers, sites and small runs that several tests share."""
