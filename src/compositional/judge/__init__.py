"""Judging stored predictions: is each output what was asked for, yes or no?"""
