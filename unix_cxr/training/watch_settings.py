"""What a stage may say about being watched: drawn X-rays and quick measures along the way."""

from typing import Annotated, Final

from pydantic import Field, model_validator

from unix_cxr.training.objective_settings import StrictSettings

FD: Final = "dev_fd"
REPORT_F1: Final = "dev_report_f1"


class DrawSettings(StrictSettings):
    """A few X-rays drawn from fixed dev texts and fixed seeds, on a sheet of their own each time.

    Args:
        count: X-rays on the sheet.
        every: steps between sheets; one is drawn at the last step as well.
    """

    count: Annotated[int, Field(ge=1, le=64)] = 8
    every: Annotated[int, Field(ge=1)]


class MeasureSettings(StrictSettings):
    """Quick measures of what the model draws and writes, of fixed dev studies each time.

    Args:
        fd: dev studies whose texts are drawn for the Fréchet distance; 0 measures none.
        reports: dev studies whose reports are written for the F1 of their findings; 0 measures
            none.
        eye: gives the features of the distance: "vision" is the model's own vision tower as it was
            when the stage began, anything else the folder of a classifier that
            `train_classifier` made.
        max_new_tokens: longest report.
        every: steps between measures; they are taken at the last step as well.
    """

    fd: Annotated[int, Field(ge=0)] = 0
    reports: Annotated[int, Field(ge=0)] = 0
    eye: str = "vision"
    max_new_tokens: Annotated[int, Field(ge=1)] = 200
    every: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _something(self) -> "MeasureSettings":
        if not self.fd and not self.reports:
            raise ValueError("measure needs fd or reports: a number of dev studies")
        if self.fd == 1:
            raise ValueError("fd (1) must be 0 or at least 2: one X-ray has no spread")
        return self
