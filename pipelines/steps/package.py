"""Package a trained model: a bento with weights, tokenizer, provenance, golden and reference requests."""

from __future__ import annotations

from pipelines import artifacts
from pipelines.artifacts import ArtifactRef
from pipelines.formats.shards import TokenShards
from pipelines.packaging import sources
from pipelines.packaging.assembly import Ancestors, assemble
from pipelines.packaging.requests import make_requests
from pipelines.spec import Frozen, ModelSpec, PackagingConfig, ServiceConfig
from pipelines.step import StepContext

LIBRARIES = sources.LIBRARIES

HELD_OUT = "validation"
"""Split of the tokens that the model was not trained on."""


class Config(Frozen):
    """What of the spec shapes a bento."""

    name: str
    packaging: PackagingConfig
    service: ServiceConfig


class Inputs(Frozen):
    """The model, and what it comes from."""

    model: ArtifactRef
    tokens: ArtifactRef
    dataset: ArtifactRef


class Result(Frozen):
    """A bento that can be served."""

    bento: ArtifactRef
    tag: str
    """Model name and version; the version is the beginning of the digest of the bento's contents."""

    model_digest: str
    """What the service reports when it has loaded this bento."""

    num_golden: int
    num_reference: int


def configure(spec: ModelSpec) -> Config:
    """Take name, packaging and service."""
    return Config(name=spec.name, packaging=spec.packaging, service=spec.service)


def fingerprint(config: Config) -> str:
    """Return the digest of the serving code, which the bento carries."""
    return sources.code_digest(config.packaging.service)


def run(config: Config, inputs: Inputs, context: StepContext) -> Result:
    """Build and publish the bento.

    Raises:
        BadInput: when the held-out documents do not suffice for the golden requests.
        BentoBuildFailed: when BentoML refuses.
    """
    model = context.fetch(inputs.model)
    documents = TokenShards.open(context.fetch(inputs.tokens)).documents(HELD_OUT)
    requests = make_requests(model, documents, config.packaging, config.service)
    context.report(num_golden=len(requests.golden), num_reference=len(requests.reference))
    assembled = assemble(
        name=config.name,
        service_name=config.packaging.service,
        service=config.service,
        model=model,
        manifest=artifacts.read_manifest(context.store, inputs.model),
        ancestors=Ancestors(tokens=inputs.tokens.digest, dataset=inputs.dataset.digest),
        requests=requests,
        scratch=context.scratch,
    )
    ref = context.publish("bento", assembled.folder, [inputs.model, inputs.tokens, inputs.dataset])
    return Result(
        bento=ref,
        tag=assembled.tag,
        model_digest=inputs.model.digest,
        num_golden=len(requests.golden),
        num_reference=len(requests.reference),
    )
