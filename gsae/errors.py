"""The two ways in which a run ends badly, and the exit codes that they mean. A leaf: any room may import it."""


class SettingError(ValueError):
    """A setting is wrong: the user can mend it. `gsae.main` prints it as one line and exits with code 2.

    Args:
        setting: the setting's full name as the user writes it, for example `config.sae.width`.
        value: what was given.
        allowed: what is allowed, as the end of the sentence "must be ...", or a whole clause.
    """

    exit_code = 2

    def __init__(self, setting: str, value: object, allowed: str):
        super().__init__(f"{setting} = {' '.join(repr(value).split())}: {allowed}")
        self.setting, self.value, self.allowed = setting, value, allowed


class RunError(RuntimeError):
    """The settings are fine but the run cannot go on (a full disk, altered data). One line, exit code 1."""

    exit_code = 1


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved and the same command continues. Exit code 75 (EX_TEMPFAIL)."""

    exit_code = 75
