"""What can a machine run, and what is missing? `deckbench doctor` checks, and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deckbench.doctor.finding import Finding


@dataclass(frozen=True)
class Report:
    """findings: one for each thing checked, in order. can_run: whether the machine can run anything of DeckBench.

    model: the assessment of the named model, None without one; see `fits.assess_model`.
    """

    where: str
    findings: tuple[Finding, ...]
    can_run: bool
    model: dict[str, Any] | None = None

    @property
    def answer(self) -> str:
        """Empty when the machine can run what was named; else what it cannot run."""
        if self.model is not None and not self.model["fits"]:
            return f"{self.model['model']} cannot run on {self.where}"
        return "" if self.can_run else f"nothing of DeckBench can run on {self.where}"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        findings = [vars(one) for one in self.findings]
        return {"where": self.where, "can_run": self.can_run, "findings": findings, "model": self.model}


def doctor(host: str | None = None, model: str | None = None) -> Report:
    """Check what a machine can run, and what is missing.

    Args:
        host: `ssh://USER@HOST[:PORT]`; None for this machine.
        model: also assess whether this model fits the machine: a known name, a folder, `endpoint:NAME` or a baseline.

    Returns:
        The findings, and whether anything (and the model) can run there. Sizes are in bytes.

    Raises:
        InputError: the host cannot be read, or the model is not known.
        OutsideError: the host cannot be reached.
    """
    return check_remote(host, model) if host is not None else check_local(model)


def check_local(model: str | None) -> Report:
    """This machine."""
    from deckbench.containers.spec import load_images
    from deckbench.doctor import assess, fits, torch_check
    from deckbench.doctor.installation import installation_findings
    from deckbench.machine.local import emulated_architectures, local_machine
    from deckbench.models.families import served_as

    if model is not None:
        served_as(model)  # an unknown model is an error before anything is checked
    process = torch_check.start()
    try:
        machine, emulated, images = local_machine(), emulated_architectures(), load_images()
        findings = [*installation_findings(), *assess.machine_findings(machine)]
        torch = torch_check.collect(process)
    finally:
        torch_check.stop(process)
    findings += [*torch_check.findings(torch), *assess.daemon_findings(machine)]
    findings += assess.image_findings(machine, images, emulated) if machine.docker is not None else []
    findings.append(assess.emulation(machine, emulated))
    can_run = torch.loads or torch.is_absent
    can_run = can_run or (not machine.id_mapping and any(image.tag in machine.images for image in images.values()))
    if model is None:
        return Report(machine.where, tuple(findings), can_run)
    verdict = fits.assess_model(model, machine, images, torch_loads=torch.loads, torch_gpu=torch.gpu_free)
    return Report(machine.where, (*findings, *verdict.findings), can_run, verdict.facts)


def check_remote(host: str, model: str | None) -> Report:
    """The machine behind ssh."""
    from deckbench.containers.spec import load_images
    from deckbench.doctor import assess, fits
    from deckbench.machine.remote import probe_machine
    from deckbench.models.families import served_as

    if model is not None:
        served_as(model)
    machine, images = probe_machine(host), load_images()
    findings = [*assess.machine_findings(machine)]
    findings.append(Finding("Python", "good" if machine.python else "absent", machine.python or "none; none is needed"))
    findings += assess.daemon_findings(machine)
    findings += assess.image_findings(machine, images, set()) if machine.docker is not None else []
    can_run = assess.can_run(machine, images)
    if model is None:
        return Report(machine.where, tuple(findings), can_run)
    verdict = fits.assess_model(model, machine, images)
    return Report(machine.where, (*findings, *verdict.findings), can_run, verdict.facts)
