"""Contestants without a framework, to see what the race makes of them: ``build(workload, form)`` like the real ones."""

import os
import signal
import time

from bench.steps import NotApplicableError


class Fake:
    steps = 4

    def __init__(self, form, workload):
        self.form, self.shift = form, 0.5 if form == "other" else 0.0
        if form == "refuses":
            raise NotApplicableError("there is nothing to do")
        if form == "breaks":
            raise ValueError("this workload\nis strange")
        if form == "hangs":
            time.sleep(60)

    def compared(self):
        print("frameworks write to the standard output")
        return [1.0 + self.shift + k for k in range(20)]

    def call(self):
        if self.form == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.016 if self.form == "slow" else 0.004)


def build(workload, form):
    return Fake(form, workload)
