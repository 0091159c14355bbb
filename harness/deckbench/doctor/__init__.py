"""What can a machine run, and what is missing? `deckbench doctor`: it looks, and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deckbench.doctor.facts import Finding


@dataclass(frozen=True)
class Report:
    """findings: one for each thing looked at, in order. can_run: whether the machine can run anything of DeckBench.

    model: what was found of the model that was asked about, None without one; see `fits.judge`.
    """

    where: str
    findings: tuple[Finding, ...]
    can_run: bool
    model: dict[str, Any] | None = None

    @property
    def answer(self) -> str:
        """Empty when the answer is yes; else why it is no."""
        if self.model is not None and not self.model["fits"]:
            return f"{self.model['model']} cannot run on {self.where}"
        return "" if self.can_run else f"nothing of DeckBench can run on {self.where}"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        findings = [vars(one) for one in self.findings]
        return {"where": self.where, "can_run": self.can_run, "findings": findings, "model": self.model}


def doctor(host: str | None = None, model: str | None = None) -> Report:
    """Look at this machine, or at the one at `ssh://USER@HOST`. model: also, does this one fit there?

    Raises InputError for a host or a model that is none; OutsideError for a host that cannot be reached.
    """
    return look_far(host, model) if host is not None else look_here(model)


def look_here(model: str | None) -> Report:
    """This machine."""
    from deckbench.containers.spec import load_images
    from deckbench.doctor import fits, here, judge, probe

    if model is not None:
        fits.kind_of(model)  # what is no model is said at once
    process = probe.start()
    try:
        machine, emulated, images = here.look(), here.emulates(), load_images()
        findings = [*here.installed(), *judge.machine_findings(machine)]
        torch = probe.collect(process)
    finally:
        probe.stop(process)
    findings += [*probe.findings(torch), *judge.daemon_findings(machine)]
    findings += judge.image_findings(machine, images, emulated) if machine.docker is not None else []
    findings.append(judge.emulation(machine, emulated))
    can_run = torch.loads or any(image.tag in machine.images for image in images.values())
    if model is None:
        return Report(machine.where, tuple(findings), can_run)
    verdict = fits.judge(model, machine, images, torch_loads=torch.loads, torch_gpu=torch.gpu_free)
    return Report(machine.where, (*findings, *verdict.findings), can_run, verdict.facts)


def look_far(host: str, model: str | None) -> Report:
    """The machine behind ssh."""
    from deckbench.containers.spec import load_images
    from deckbench.doctor import far, fits, judge

    if model is not None:
        fits.kind_of(model)
    machine, images = far.look(host), load_images()
    findings = [*judge.machine_findings(machine)]
    findings.append(Finding("Python", "good" if machine.python else "absent", machine.python or "none; none is needed"))
    findings += judge.daemon_findings(machine)
    findings += judge.image_findings(machine, images, set()) if machine.docker is not None else []
    can_run = judge.can_run(machine, images)
    if model is None:
        return Report(machine.where, tuple(findings), can_run)
    verdict = fits.judge(model, machine, images)
    return Report(machine.where, (*findings, *verdict.findings), can_run, verdict.facts)
