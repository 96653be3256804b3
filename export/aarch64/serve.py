"""Runs inside the emulated Arm: LiteRT interpreters, worked by the process that started this one.

Reads pickled requests from standard input and answers each on standard output. Starting an emulated Python takes seconds,
so one process serves as many models as are asked for.
"""

import os
import pickle
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "site"))

from ai_edge_litert.interpreter import Interpreter


def main():
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints goes to standard error
    models = {}
    while True:
        try:
            model, calls = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = (True, [call(models, model, *one) for one in calls])
        except (RuntimeError, ValueError) as error:
            answer = (False, str(error))
        pickle.dump(answer, answers, protocol=4)
        answers.flush()


def call(models, model, method, args, options):
    """One call of an interpreter's method; `open` makes the interpreter, `close` drops it."""
    if method == "open":
        models[model] = Interpreter(*args, **options)
        return None
    if method == "close":
        return models.pop(model, None) and None
    return getattr(models[model], method)(*args, **options)


main()
