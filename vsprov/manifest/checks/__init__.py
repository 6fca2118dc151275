"""Checks of manifests that no schema can express: of all objects together, and of each by its kind."""
