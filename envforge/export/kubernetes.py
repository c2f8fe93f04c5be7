"""For Kubernetes: an indexed Job with a pod on each of its nodes, and the service by which they find each other."""

from __future__ import annotations

from envforge import __version__
from envforge.export.fleet import PORT, PROGRAM, indented, needs_of, node_script, program, remarks
from envforge.export.source import Exported, Source


def kubernetes(source: Source) -> Exported:
    """The YAML of both, and the all-reduce beside it."""
    needs = needs_of(source)
    head = remarks(
        source,
        needs,
        "    kubectl apply -f verify.k8s.yaml",
        "The claim `envforge-project` (ReadWriteMany) holds the project with this lock and the program.",
        "For other numbers of nodes change completions, parallelism and the variable nodes alike.",
    )
    limits = '          resources:\n            limits:\n              nvidia.com/gpu: "1"\n' if needs.has_gpu else ""
    script = _SCRIPT.format(version=__version__, lock=source.name, node=node_script(needs, " --prefix /env"))
    text = _TEXT.format(port=PORT, limits=limits, script=indented(script, 14))
    return Exported(text=head + text, beside=((PROGRAM, program()),))


_SCRIPT = """\
set -u
pip install --quiet envforge=={version}
# What the lock needs of the machine is what verify tells, so it does not stop the install.
envforge install {lock} --prefix /env --ignore-machine
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
          image: python:3.12-slim-bookworm
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
