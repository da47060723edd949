"""What programs do with the official Python client: objects, watches, logs, exec, attach, port-forward.

Usage: client.py KUBECONFIG
"""

import http.client
import sys

from kubernetes import client, config, dynamic, watch
from kubernetes.stream import portforward, stream

SECONDS = 30


def same(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


def pod(name, script):
    container = client.V1Container(name="c", image="busybox", command=["sh", "-c", script], stdin=True,
                                   ports=[client.V1ContainerPort(container_port=8080)])
    return client.V1Pod(metadata=client.V1ObjectMeta(name=name, labels={"app": name}),
                        spec=client.V1PodSpec(containers=[container], termination_grace_period_seconds=1))


def objects(core):
    made = core.create_namespaced_config_map("default", client.V1ConfigMap(
        metadata=client.V1ObjectMeta(name="settings"), data={"colour": "blue"}))
    made.data["colour"] = "green"
    changed = core.replace_namespaced_config_map("settings", "default", made)
    same(changed.data, {"colour": "green"})
    try:
        core.replace_namespaced_config_map("settings", "default", made)
        raise AssertionError("a stale version was accepted")
    except client.ApiException as error:
        same(error.status, 409)
    patched = core.patch_namespaced_config_map("settings", "default", {"data": {"shape": "round"}})
    same(patched.data, {"colour": "green", "shape": "round"})
    same([m.metadata.name for m in core.list_namespaced_config_map(
        "default", field_selector="metadata.name=settings").items], ["settings"])
    core.delete_namespaced_config_map("settings", "default")
    same([n.metadata.name for n in core.list_namespace(limit=2).items], ["default", "kube-node-lease"])
    review = client.AuthenticationV1Api().create_self_subject_review(client.V1SelfSubjectReview())
    assert "system:masters" in review.status.user_info.groups


def dynamically(api):
    maps = dynamic.DynamicClient(api).resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "b"}}
    same(maps.server_side_apply(body=body, namespace="default", field_manager="test").data.a, "b")
    maps.delete(name="applied", namespace="default")


def until(core, name, fits, **more):
    """Watches a pod until it is as it should be."""
    watcher = watch.Watch()
    for event in watcher.stream(core.list_namespaced_pod, "default", field_selector=f"metadata.name={name}",
                                timeout_seconds=SECONDS, **more):
        if fits(event):
            watcher.stop()
            return event["object"]
    raise AssertionError(f"{name} never became what it should")


def is_running(event):
    return event["object"].status.phase == "Running"


def streams(core):
    script = "mkdir /w; echo from the pod > /w/hello; echo started; httpd -p 8080 -h /w; while read line; do echo got $line; done"
    core.create_namespaced_pod("default", pod("py", script))
    until(core, "py", is_running, allow_watch_bookmarks=True)
    out = stream(core.connect_get_namespaced_pod_exec, "py", "default", command=["sh", "-c", "echo out; echo err >&2"],
                 stderr=True, stdin=False, stdout=True, tty=False)
    same(sorted(out.split()), ["err", "out"])
    session = stream(core.connect_get_namespaced_pod_exec, "py", "default", command=["sh", "-c", "read a; echo $a; exit 3"],
                     stderr=True, stdin=True, stdout=True, tty=False, _preload_content=False)
    session.write_stdin("typed\n")
    session.run_forever(timeout=SECONDS)
    same((session.read_stdout(), session.returncode), ("typed\n", 3))
    attached = stream(core.connect_get_namespaced_pod_attach, "py", "default", stderr=True, stdin=True, stdout=True,
                      tty=False, _preload_content=False)
    attached.write_stdin("hello\n")
    same(attached.readline_stdout(timeout=SECONDS), "got hello")
    attached.close()
    forwarded = portforward(core.connect_get_namespaced_pod_portforward, "py", "default", ports="8080")
    connection = http.client.HTTPConnection("pod", timeout=SECONDS)
    connection.sock = forwarded.socket(8080)
    connection.request("GET", "/hello")
    same(connection.getresponse().read(), b"from the pod\n")
    same(core.connect_get_namespaced_pod_proxy_with_path("py:8080", "default", "hello").strip(), "from the pod")
    log = core.read_namespaced_pod_log("py", "default", tail_lines=10)
    same(log, "started\ngot hello\n")
    follower = watch.Watch()
    for line in follower.stream(core.read_namespaced_pod_log, "py", "default"):
        same(line, "started")
        follower.stop()
    core.delete_namespaced_pod("py", "default")
    until(core, "py", lambda event: event["type"] == "DELETED")


def main():
    config.load_kube_config(sys.argv[1])
    core = client.CoreV1Api()
    objects(core)
    dynamically(core.api_client)
    streams(core)


main()
