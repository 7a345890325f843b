import json

import pytest

from ropevit.tasks.training.steps import StepLog, read_log


@pytest.mark.parametrize(
    ("end", "steps"), [('{"step": 2}', [1, 2, 3]), ('{"step": 2', [1, 3]), ('\n{"step": 2}\n', [1, 2, 3])]
)
def test_log_lines_are_appended_after_complete_lines_only(tmp_path, end, steps):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n' + end)
    with StepLog(path, keep=lambda line: line["step"] < 3) as log:
        log.write(3, {"loss": 0.5})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == steps
    assert [line["step"] for _, line in read_log(path)] == steps
