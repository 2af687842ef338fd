"""The classes that the bad files name; nothing is wrong with most of them."""

from __future__ import annotations

from sage_plugins import batch_of

OPENING_HOURS = (9, 17)


def open_shelf(name):
    return Shelf(name)


class Shelf:
    def __init__(self, name, places=10):
        self.name = name
        self.places = places

    def find(self, title):
        return title

    @batch_of("find")
    def find_many(self, titles):
        return titles

    def add(self, title, place=0):
        return title, place


class Counter:
    def count(self):
        return 1


class BatchOfNothing:
    """Its batch method is for a method that it does not have."""

    def find(self, title):
        return title

    @batch_of("search")
    def find_many(self, titles):
        return titles


class BatchOfStream:
    """Its batch method is for a stream."""

    def find(self, title):
        yield title

    @batch_of("find")
    def find_many(self, titles):
        return titles


class BatchOfOne:
    """Its batch method lacks a list for the second parameter."""

    def add(self, title, place):
        return title, place

    @batch_of("add")
    def add_many(self, titles):
        return titles
