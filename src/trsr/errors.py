"""The errors that trsr raises on purpose.

```
TrsrError
├── ConfigError      the settings cannot be used: says every key that is wrong
├── DataError        the data cannot be used: says the file, the line or the user
├── PromptError      a prompt cannot be made to fit: says the query and the tokens
├── ModelError       a language model cannot be loaded, reached or understood
├── PluginError      a part of another package failed: says the part, the package and the line
└── StoreError       a run directory or store cannot be read or written
    └── StaleRunError    what is stored was made with other settings
```

Each message says what was wrong, where, and what to do next. Formatting for a terminal is the
command line's work.
"""


class TrsrError(Exception):
    """Base of every error that trsr raises on purpose."""


class ConfigError(TrsrError):
    """The settings cannot be used; the message lists every mistake, one a line."""


class DataError(TrsrError):
    """The data cannot be used; the message names the file, line, column or user."""


class PromptError(TrsrError):
    """A prompt cannot be made to fit its token budget; the message names the query."""


class ModelError(TrsrError):
    """A language model cannot be loaded, reached or understood."""


class PluginError(TrsrError):
    """A part of another package failed; the message names the part, its package and the line.

    `__cause__` is what it raised.
    """


class StoreError(TrsrError):
    """A run directory or an output store cannot be read, written or locked."""


class RunBusyError(StoreError):
    """Another command is writing the run."""


class StaleRunError(StoreError):
    """A stage's input was made with other settings; the message names the stages to run."""
