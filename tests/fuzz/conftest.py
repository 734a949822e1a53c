import fuzzing


def pytest_terminal_summary(terminalreporter):
    if fuzzing.COUNTS:
        terminalreporter.section("fuzzing")
        terminalreporter.write_line("\n".join(fuzzing.report()))
