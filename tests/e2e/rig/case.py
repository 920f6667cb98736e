"""A test case with a sandbox for all of its tests, whose logs are shown when one of them fails."""

import unittest
from typing import ClassVar

from rig.sandbox import Sandbox


class SandboxCase(unittest.TestCase):
    """`cls.box` is there from `setUpClass` on; start what all tests share there, after `super().setUpClass()`."""

    box: ClassVar[Sandbox]
    _began: ClassVar[bool]
    _failed: ClassVar[bool]

    @classmethod
    def setUpClass(cls) -> None:
        cls._began = cls._failed = False
        cls.box = Sandbox().__enter__()
        # No test at all means that setUpClass of the subclass failed.
        cls.addClassCleanup(lambda: cls.box.close(failed=cls._failed or not cls._began))

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test and remember for the end of the class whether it failed."""
        if result is None:
            result = self.defaultTestResult()
        before = len(result.failures) + len(result.errors)
        type(self)._began = True
        super().run(result)
        if len(result.failures) + len(result.errors) > before:
            type(self)._failed = True
        return result
