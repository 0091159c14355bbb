"""The records that tests of the site stand on are those of the tests of records."""

from tests.record.conftest import folder, one, suite_records

__all__ = ["folder", "one", "suite_records"]
