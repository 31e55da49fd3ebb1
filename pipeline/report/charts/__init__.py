"""The report's charts, each described once (Altair), for the live page, print, PNG and DVC."""
