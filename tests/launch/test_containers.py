"""launch/gke_jobset.yaml and launch/Dockerfile: the published schema, and what this repository must have for them."""

import re
import runpy
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from gsae.errors import Interrupted

ROOT = Path(__file__).parents[2]
JOBSET = ROOT / "launch" / "gke_jobset.yaml"
DOCKERFILE = ROOT / "launch" / "Dockerfile"

TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "array", "items": TEXT}
LABELS = {"type": "object", "additionalProperties": TEXT}


def record(required="", **properties):
    """An object with these fields and no others: an API server drops or refuses a field that it does not know."""
    return {"type": "object", "required": required.split(), "properties": properties, "additionalProperties": False}


def several(items):
    return {"type": "array", "minItems": 1, "items": items}


# The part that we use of kubernetes-sigs/jobset, charts/jobset/crds/jobset.x-k8s.io_jobsets.yaml (v1alpha2): names,
# types, required fields and enumerations as there, the specifications of pods and jobs included, which it repeats.
CONTAINER = record(
    "name",
    name=TEXT,
    image=TEXT,
    command=TEXTS,
    args=TEXTS,
    env=several(record("name", name=TEXT, value=TEXT, valueFrom={"type": "object"})),
    envFrom=several(record(secretRef=record(name=TEXT, optional=FLAG))),
    volumeMounts=several(record("mountPath name", name=TEXT, mountPath=TEXT, subPath=TEXT, readOnly=FLAG)),
    ports=several(record("containerPort", containerPort=NUMBER, name=TEXT, protocol=TEXT)),
    resources=record(limits={"type": "object", "additionalProperties": {"type": ["integer", "string"]}}),
)
CSI = record("driver", driver=TEXT, fsType=TEXT, readOnly=FLAG, volumeAttributes=LABELS)
TOLERATION = record(key=TEXT, operator=TEXT, value=TEXT, effect=TEXT, tolerationSeconds=NUMBER)
POD = record(
    "containers",
    containers=several(CONTAINER),
    restartPolicy=TEXT,
    terminationGracePeriodSeconds=NUMBER,
    hostNetwork=FLAG,
    dnsPolicy=TEXT,
    serviceAccountName=TEXT,
    nodeSelector=LABELS,
    tolerations=several(TOLERATION),
    volumes=several(record("name csi", name=TEXT, csi=CSI)),
)
EXIT_CODES = record("operator values", containerName=TEXT, operator={"enum": ["In", "NotIn"]}, values=several(NUMBER))
JOB = record(
    "template",
    template=record(metadata=record(annotations=LABELS, labels=LABELS), spec=POD),
    completionMode={"enum": ["NonIndexed", "Indexed"]},
    completions=NUMBER,
    parallelism=NUMBER,
    backoffLimit=NUMBER,
    podFailurePolicy=record("rules", rules=several(record("action", action=TEXT, onExitCodes=EXIT_CODES))),
)
RULE = record(
    "action name",
    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    onJobFailureReasons=TEXTS,
    targetReplicatedJobs=TEXTS,
)
SCHEMA = record(
    "apiVersion kind metadata spec",
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=record("name", name=TEXT, namespace=TEXT, annotations=LABELS, labels=LABELS),
    spec=record(
        failurePolicy=record(maxRestarts=NUMBER, rules=several(RULE)),
        replicatedJobs=several(
            record("name template", name=TEXT, replicas=NUMBER, template=record(metadata={"type": "object"}, spec=JOB))
        ),
    ),
)


def jobset():
    return yaml.safe_load(JOBSET.read_text())


def test_the_jobset_fits_the_published_schema():
    jsonschema.validate(jobset(), SCHEMA)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda slice: slice.pop("name"), "'name' is a required property"),
        (lambda slice: slice["template"]["spec"].pop("template"), "'template' is a required property"),
        (lambda slice: slice["template"]["spec"].update(paralellism=4), "'paralellism' was unexpected"),
        (lambda slice: volume(slice)["csi"].update(bucketName="b"), "'bucketName' was unexpected"),
    ],
)
def test_the_schema_finds_what_is_missing_or_unknown(spoil, complaint):
    spoiled = jobset()
    spoil(spoiled["spec"]["replicatedJobs"][0])
    with pytest.raises(jsonschema.ValidationError, match=complaint):
        jsonschema.validate(spoiled, SCHEMA)


def test_the_jobset_asks_for_a_whole_slice_and_restarts_by_exit_code():
    (slice,) = jobset()["spec"]["replicatedJobs"]
    job = slice["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = 1
    for length in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"):
        chips *= int(length)
    assert job["parallelism"] == job["completions"]
    assert chips == job["completions"] * container["resources"]["limits"]["google.com/tpu"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [Interrupted.exit_code],
    }
    assert pod["restartPolicy"] == "Never"  # a pod failure policy wants it
    (policy,) = jobset()["spec"]["failurePolicy"]["rules"]
    assert policy["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert policy["onJobFailureReasons"] == ["PodFailurePolicy"]


def volume(slice):
    (volume,) = slice["template"]["spec"]["template"]["spec"]["volumes"]
    return volume


def test_all_pods_see_the_workdir_and_their_bucket():
    (slice,) = jobset()["spec"]["replicatedJobs"]
    pod = slice["template"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    options = dict(argument.split("=", 1) for argument in container["args"])
    (mount,) = container["volumeMounts"]
    assert mount["name"] == volume(slice)["name"]
    assert Path(mount["mountPath"]) in Path(options["--workdir"]).parents
    assert pod["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert volume(slice)["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    attributes = volume(slice)["csi"]["volumeAttributes"]
    assert attributes["mountOptions"].split(",")[:2] == ["implicit-dirs", "rename-dir-limit=1000"]
    for setting in ("activations.store", "training.checkpoints"):
        assert options[f"--config.{setting}"].startswith(f"gs://{attributes['bucketName']}/")
    # the driver and the program have the pod's identity, which none has on the host's network
    assert "serviceAccountName" in pod["spec"]
    assert "hostNetwork" not in pod["spec"]


def test_secrets_stand_in_no_file():
    text = JOBSET.read_text() + DOCKERFILE.read_text()
    assert "envFrom" in text
    assert not re.search(r"(HF_TOKEN|WANDB_API_KEY)\s*[:=]\s*\S", text)


def dockerfile():
    """The instructions, continued lines joined, comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    return [line.split(maxsplit=1) for line in "\n".join(lines).replace("\\\n", "").splitlines() if line.strip()]


def test_the_image_is_made_of_what_is_here(monkeypatch):
    copied = [path for name, rest in dockerfile() if name == "COPY" for path in shlex.split(rest)[:-1]]
    assert {"setup.py", "README.md", "gsae", "experiments"} <= set(copied)
    assert [path for path in copied if not (ROOT / path).exists()] == []
    ignored = [line.strip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert not set(copied) & set(ignored)
    asked = {}
    monkeypatch.setattr("setuptools.setup", lambda **arguments: asked.update(arguments))
    runpy.run_path(str(ROOT / "setup.py"))
    (installation,) = [rest for name, rest in dockerfile() if name == "RUN" and "pip install" in rest]
    accelerators = re.search(r"in ([a-z |]+)\) ;;", installation)[1].split(" | ")
    assert sorted(accelerators) == ["cuda", "tpu"]
    extras = re.search(r'-e "\.\[([^]]+)\]"', installation)[1].split(",")
    assert extras == ["$ACCELERATOR", "gcs"]
    assert {*accelerators, "gcs"} <= set(asked["extras_require"])
