"""Export for Kubernetes: an indexed Job with one pod per node, and the service by which the pods find each other."""

from __future__ import annotations

import shlex

from envforge.distribution import python_image
from envforge.export.fleet import PORT, PROGRAM, indented, needs_of, node_script, program, remarks
from envforge.export.source import Exported, Source


def kubernetes(source: Source) -> Exported:
    """Return the YAML of the job and the service, and the all-reduce program."""
    needs = needs_of(source)
    head = remarks(
        source,
        needs,
        "    kubectl apply -f verify.k8s.yaml",
        "The claim `envforge-project` (ReadWriteMany) contains the project with this lockfile and the program.",
        "To use another number of nodes, change completions, parallelism, and the variable nodes.",
    )
    limits = '          resources:\n            limits:\n              nvidia.com/gpu: "1"\n' if needs.has_gpu else ""
    script = _SCRIPT.format(
        requirement=_quoted(source.requirement), lock=_quoted(source.name), node=node_script(needs, " --prefix /env")
    )
    text = _TEXT.format(port=PORT, image=python_image(source.requirement), limits=limits, script=indented(script, 14))
    return Exported(text=head + text, beside=((PROGRAM, program()),))


def _quoted(value: str) -> str:
    """Quote for the shell, and double each ``$``, because Kubernetes expands ``$(NAME)`` in a command."""
    return shlex.quote(value).replace("$", "$$")


_SCRIPT = """\
set -eu
pip install --quiet {requirement}
# verify reports whether this machine meets the requirements, so the install ignores them
envforge install {lock} --prefix /env --ignore-machine
set +e
rank=$JOB_COMPLETION_INDEX gpus=1
head=envforge-verify-0.envforge-verify address=envforge-verify-$rank.envforge-verify
node="$NODE_NAME-$rank" results="envforge-verify-$run"
{node}"""

_TEXT = """\
apiVersion: v1
kind: Service
metadata:
  name: envforge-verify
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    app: envforge-verify
  ports:
    - name: rendezvous
      port: {port}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: envforge-verify
spec:
  completionMode: Indexed
  completions: 2
  parallelism: 2
  backoffLimit: 0
  template:
    metadata:
      labels:
        app: envforge-verify
    spec:
      subdomain: envforge-verify
      restartPolicy: Never
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - labelSelector:
                matchLabels:
                  app: envforge-verify
              topologyKey: kubernetes.io/hostname
      containers:
        - name: verify
          image: {image}
          workingDir: /project
          env:
            - name: nodes
              value: "2"
            - name: run
              valueFrom:
                fieldRef:
                  fieldPath: metadata.labels['batch.kubernetes.io/controller-uid']
            - name: NODE_NAME
              valueFrom:
                fieldRef:
                  fieldPath: spec.nodeName
{limits}          volumeMounts:
            - name: project
              mountPath: /project
            - name: shared-memory
              mountPath: /dev/shm
          command:
            - bash
            - -c
            - |
{script}      volumes:
        - name: project
          persistentVolumeClaim:
            claimName: envforge-project
        - name: shared-memory
          emptyDir:
            medium: Memory
"""
