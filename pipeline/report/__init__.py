"""The report: tables, charts, sentences and pages."""
