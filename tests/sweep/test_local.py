"""Runs on this machine."""

from sunlab.sweep.local import Local


def test_runs_each_configuration_and_returns_exit_codes_in_order(tmp_path, capfd):
    (tmp_path / "wrong.yaml").write_text("loss: mcs\n")
    assert Local(threads=1).launch([tmp_path / "none.yaml", tmp_path / "wrong.yaml"]) == [78, 78]
    error = capfd.readouterr().err
    assert error.index("no such file") < error.index("did you mean 'msc'")


def test_hands_on_arguments_without_a_shell(tmp_path, monkeypatch):
    commands = []

    class Done:
        returncode = 0

    def run(command, *, env, check):
        commands.append(command)
        return Done()

    monkeypatch.setattr("sunlab.sweep.local.subprocess.run", run)
    assert Local().launch([tmp_path / "a b.yaml"], ["--resume", "last"]) == [0]
    assert commands[0][1:] == ["-m", "sunlab", "fit", "--config", str(tmp_path / "a b.yaml"), "--resume", "last"]
