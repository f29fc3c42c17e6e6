"""Quantisation types of one model beside each other."""
