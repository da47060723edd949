"""The calls that Kubernetes' own conformance tests make of a node's API, over the socket, without a client library.

Usage: conformance.py SOCKET. Prints what failed; nothing else.
"""

import base64
import http.client
import json
import socket
import sys
import time
import traceback

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
SECONDS = 30


class Local(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=SECONDS)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self.path)


def ask(method, path, body=None, media=JSON):
    """Status code and JSON (or text) of an answer."""
    connection = Local(SOCKET)
    text = json.dumps(body) if body is not None else None
    connection.request(method, path, text, {"Content-Type": media, "Accept": JSON})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    try:
        return answer.status, json.loads(data)
    except ValueError:
        return answer.status, data.decode()


def want(expected, method, path, body=None, media=JSON):
    """The answer of a call that has to end with this code."""
    code, value = ask(method, path, body, media)
    assert code == expected, f"{method} {path}: {code} and not {expected}: {value}"
    return value


def same(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


class Watch:
    """A watch that is read line by line."""

    def __init__(self, path):
        self.connection = Local(SOCKET)
        self.connection.request("GET", path)
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()

    def next(self):
        line = self.answer.readline()
        return json.loads(line) if line else None

    def until(self, kind, fits=lambda thing: True):
        while True:
            event = self.next()
            assert event, f"the watch ended before {kind}"
            if event["type"] == kind and fits(event["object"]):
                return event["object"]


def within(what, look):
    """What a look finds, sooner or later."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"never: {what}")


def namespace():
    """The path of a new namespace."""
    made = want(201, "POST", "/api/v1/namespaces", {"metadata": {"generateName": "conformance-"}})
    return made["metadata"]["name"]


def pod(name, command, **more):
    spec = {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "busybox", "command": command}]}
    spec.update(more)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def phase(pods, name, wanted):
    return within(f"{name} is {wanted}", lambda: (lambda p: p["status"].get("phase") == wanted and p)(
        want(200, "GET", f"{pods}/{name}")))


# What each kind's life is tested with: path, object, the merge patch, and where it shows.
LIVES = [
    ("configmaps", {"data": {"k": "v"}}, {"data": {"k": "w"}}, lambda o: o["data"]["k"], "w"),
    ("secrets", {"type": "Opaque", "stringData": {"k": "v"}}, {"data": {"k": "dw=="}}, lambda o: o["data"]["k"], "dw=="),
    ("serviceaccounts", {"automountServiceAccountToken": False}, {"automountServiceAccountToken": True},
     lambda o: o["automountServiceAccountToken"], True),
    ("podtemplates", {"template": {"spec": {"containers": [{"name": "c", "image": "busybox"}]}}},
     {"metadata": {"labels": {"changed": "yes"}}}, lambda o: o["metadata"]["labels"]["changed"], "yes"),
    ("endpoints", {"subsets": [{"addresses": [{"ip": "10.0.0.24"}], "ports": [{"name": "http", "port": 80}]}]},
     {"metadata": {"labels": {"changed": "yes"}}}, lambda o: o["metadata"]["labels"]["changed"], "yes"),
    ("services", {"spec": {"type": "ClusterIP", "ports": [{"name": "http", "port": 80, "targetPort": 80}]}},
     {"metadata": {"annotations": {"patched": "true"}}}, lambda o: o["metadata"]["annotations"]["patched"], "true"),
    ("limitranges", {"spec": {"limits": [{"type": "Container", "default": {"cpu": "300m"}}]}},
     {"spec": {"limits": [{"type": "Container", "default": {"cpu": "400m"}}]}},
     lambda o: o["spec"]["limits"][0]["default"]["cpu"], "400m"),
    ("resourcequotas", {"spec": {"hard": {"pods": "5"}}}, {"spec": {"hard": {"pods": "7"}}},
     lambda o: o["spec"]["hard"]["pods"], "7"),
    # What an event is about is in its own namespace.
    ("events", {"involvedObject": {"kind": "Pod", "name": "p", "namespace": "SPACE"}, "reason": "Test",
                "message": "one", "type": "Normal", "count": 1}, {"message": "two"}, lambda o: o["message"], "two"),
    ("persistentvolumeclaims", {"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none",
                                         "resources": {"requests": {"storage": "1Gi"}}}},
     {"metadata": {"labels": {"changed": "yes"}}}, lambda o: o["metadata"]["labels"]["changed"], "yes"),
    ("/apis/coordination.k8s.io/v1:leases", {"spec": {"holderIdentity": "a", "leaseDurationSeconds": 30}},
     {"spec": {"holderIdentity": "b"}}, lambda o: o["spec"]["holderIdentity"], "b"),
    ("/apis/discovery.k8s.io/v1:endpointslices",
     {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"name": "http", "port": 80}]},
     {"metadata": {"labels": {"changed": "yes"}}}, lambda o: o["metadata"]["labels"]["changed"], "yes"),
    ("/apis/events.k8s.io/v1:events",
     {"eventTime": "2030-01-02T03:04:05.000006Z", "reportingController": "test/c", "reportingInstance": "i",
      "regarding": {"kind": "Pod", "name": "p", "namespace": "SPACE"},
      "action": "Do", "reason": "Test", "type": "Normal", "note": "one"},
     {"series": {"count": 2, "lastObservedTime": "2030-01-02T03:04:06.000006Z"}}, lambda o: o["series"]["count"], 2),
]

WIDE = [
    ("/apis/node.k8s.io/v1/runtimeclasses", {"handler": "runc"}, {"metadata": {"annotations": {"patched": "true"}}}),
    ("/apis/scheduling.k8s.io/v1/priorityclasses", {"value": 5}, {"description": "patched"}),
    ("/apis/storage.k8s.io/v1/storageclasses", {"provisioner": "test/none"}, {"metadata": {"labels": {"a": "b"}}}),
    ("/api/v1/persistentvolumes",
     {"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp/pv"}}},
     {"metadata": {"labels": {"a": "b"}}}),
]


def place(kind, space):
    base, _, plural = kind.rpartition(":")
    return f"{base or '/api/v1'}/namespaces/{space}/{plural}"


def every_kind_is_created_listed_patched_replaced_watched_and_deleted():
    space = namespace()
    for kind, body, patch, look, expected in LIVES:
        path = place(kind, space)
        try:
            life(path, json.loads(json.dumps(body).replace("SPACE", space)), patch, look, expected)
        except AssertionError as error:
            raise AssertionError(f"{kind}: {error}") from error


def life(path, body, patch, look, expected):
    name = "one"
    body = dict(body, metadata={"name": name, "labels": {"test": "static"}})
    version = want(200, "GET", path)["metadata"]["resourceVersion"]
    watch = Watch(f"{path}?watch=true&resourceVersion={version}&labelSelector=test%3Dstatic")
    made = want(201, "POST", path, body)
    for field in ("uid", "creationTimestamp", "resourceVersion"):
        assert made["metadata"].get(field), f"no {field}"
    want(409, "POST", path, body)
    got = want(200, "GET", f"{path}/{name}")
    same(got["metadata"]["uid"], made["metadata"]["uid"])
    listed = want(200, "GET", f"{path}?labelSelector=test%3Dstatic")
    same(len(listed["items"]), 1)
    whole = path.split("/namespaces/")[0] + "/" + path.rpartition("/")[2]
    same(len(want(200, "GET", f"{whole}?labelSelector=test%3Dstatic")["items"]), 1)
    patched = want(200, "PATCH", f"{path}/{name}", patch, MERGE)
    same(look(patched), expected)
    patched = want(200, "PATCH", f"{path}/{name}", {"metadata": {"labels": {"more": "yes"}}}, STRATEGIC)
    same(patched["metadata"]["labels"], dict(patched["metadata"]["labels"], test="static", more="yes"))
    patched["metadata"]["labels"]["put"] = "yes"
    put = want(200, "PUT", f"{path}/{name}", patched)
    same(put["metadata"]["labels"]["put"], "yes")
    patched["metadata"]["labels"]["put"] = "no"
    want(409, "PUT", f"{path}/{name}", patched)
    watch.until("ADDED")
    watch.until("MODIFIED", lambda o: look(o) == expected)
    watch.until("MODIFIED", lambda o: o["metadata"]["labels"].get("put") == "yes")
    want(200, "DELETE", f"{path}/{name}")
    watch.until("DELETED")
    want(404, "GET", f"{path}/{name}")
    for number in range(3):
        body["metadata"] = {"name": f"many-{number}", "labels": {"test": "many"}}
        want(201, "POST", path, body)
    body["metadata"] = {"name": "other", "labels": {"test": "other"}}
    want(201, "POST", path, body)
    want(200, "DELETE", f"{path}?labelSelector=test%3Dmany")
    # Storage is protected: its controller lets go of it.
    names = lambda: [o["metadata"]["name"] for o in want(200, "GET", f"{path}?labelSelector=test")["items"]]
    within("only the other is left", lambda: names() == ["other"])
    want(200, "DELETE", f"{path}/other")


def kinds_without_a_namespace_live_alike():
    for path, body, patch in WIDE:
        name = "conformance"
        version = want(200, "GET", path)["metadata"]["resourceVersion"]
        watch = Watch(f"{path}?watch=true&resourceVersion={version}&labelSelector=test%3Dwide")
        made = want(201, "POST", path, dict(body, metadata={"name": name, "labels": {"test": "wide"}}))
        want(409, "POST", path, dict(body, metadata={"name": name}))
        patched = want(200, "PATCH", f"{path}/{name}", patch, MERGE)
        patched["metadata"].setdefault("annotations", {})["updated"] = "true"
        put = want(200, "PUT", f"{path}/{name}", patched)
        same(put["metadata"]["annotations"]["updated"], "true")
        watch.until("ADDED")
        watch.until("MODIFIED")
        want(200, "DELETE", f"{path}/{name}", {"preconditions": {"uid": made["metadata"]["uid"]}})
        watch.until("DELETED")
        want(201, "POST", path, dict(body, metadata={"name": name, "labels": {"test": "wide"}}))
        want(200, "DELETE", f"{path}?labelSelector=test%3Dwide")
        within("all of them are gone", lambda: want(200, "GET", f"{path}?labelSelector=test%3Dwide")["items"] == [])


def groups_are_discovered_from_above():
    groups = want(200, "GET", "/apis")
    for group in groups["groups"]:
        found = want(200, "GET", f"/apis/{group['name']}")
        same(found["kind"], "APIGroup")
        for version in group["versions"]:
            listed = want(200, "GET", f"/apis/{version['groupVersion']}")
            same(listed["groupVersion"], version["groupVersion"])
            assert listed["resources"], version
    same(want(200, "GET", "/api")["versions"], ["v1"])


def a_pod_runs_is_patched_and_its_status_is_replaced():
    pods = f"/api/v1/namespaces/{namespace()}/pods"
    version = want(200, "GET", pods)["metadata"]["resourceVersion"]
    watch = Watch(f"{pods}?watch=true&resourceVersion={version}")
    want(201, "POST", pods, pod("p", ["sleep", "1000"]))
    watch.until("ADDED")
    watch.until("MODIFIED", lambda o: o["status"].get("phase") == "Running")
    patched = want(200, "PATCH", f"{pods}/p", {"metadata": {"labels": {"new": "yes"}}}, STRATEGIC)
    same(patched["metadata"]["labels"]["new"], "yes")
    status = want(200, "GET", f"{pods}/p/status")
    patch = {"status": {"conditions": [{"type": "Own", "status": "True"}]}}
    changed = want(200, "PATCH", f"{pods}/p/status", patch, STRATEGIC)
    kinds = [c["type"] for c in changed["status"]["conditions"]]
    assert "Own" in kinds and "Ready" in kinds, kinds
    want(409, "PUT", f"{pods}/p/status", status)
    # The node keeps a condition that is somebody else's.
    kept = want(200, "GET", f"{pods}/p")
    assert "Own" in [c["type"] for c in kept["status"]["conditions"]]
    refused = want(422, "PATCH", f"{pods}/p", {"spec": {"containers": [{"name": "c", "command": ["true"]}]}}, STRATEGIC)
    same(refused["reason"], "Invalid")
    want(200, "PATCH", f"{pods}/p", {"spec": {"activeDeadlineSeconds": 500}}, STRATEGIC)
    want(422, "PATCH", f"{pods}/p", {"spec": {"activeDeadlineSeconds": 600}}, STRATEGIC)
    marked = want(200, "DELETE", f"{pods}/p", {"gracePeriodSeconds": 1})
    assert marked["metadata"]["deletionTimestamp"]
    gone = watch.until("DELETED")
    assert gone["metadata"]["deletionTimestamp"]
    want(404, "GET", f"{pods}/p")


def a_collection_of_pods_is_deleted_by_label():
    pods = f"/api/v1/namespaces/{namespace()}/pods"
    for name in ("a", "b", "c"):
        want(201, "POST", pods, dict(pod(name, ["sleep", "1000"]),
                                     metadata={"name": name, "labels": {"type": "Testing"}}))
    deleted = want(200, "DELETE", f"{pods}?labelSelector=type%3DTesting", {"gracePeriodSeconds": 0})
    same(len(deleted["items"]), 3)
    within("they are gone", lambda: not want(200, "GET", pods)["items"])


def a_service_has_a_status_and_keeps_its_address():
    services = f"/api/v1/namespaces/{namespace()}/services"
    made = want(201, "POST", services, {"metadata": {"name": "s"}, "spec": {
        "type": "ClusterIP", "selector": {"app": "p"}, "ports": [{"port": 80, "protocol": "TCP"}]}})
    address = made["spec"]["clusterIP"]
    ingress = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}
    patched = want(200, "PATCH", f"{services}/s/status", {"metadata": {"annotations": {"x": "y"}}, "status": ingress}, MERGE)
    same(patched["status"]["loadBalancer"]["ingress"], ingress["loadBalancer"]["ingress"])
    same(patched["metadata"]["annotations"]["x"], "y")
    put = want(200, "GET", f"{services}/s/status")
    put["status"]["conditions"] = [{"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "set",
                                    "lastTransitionTime": "2030-01-01T00:00:00Z"}]
    put = want(200, "PUT", f"{services}/s/status", put)
    same(put["status"]["conditions"][0]["type"], "StatusUpdate")
    named = want(200, "PATCH", f"{services}/s", {"spec": {"type": "ExternalName", "externalName": "example.com",
                                                         "clusterIP": "", "clusterIPs": None}}, MERGE)
    same(named["spec"]["type"], "ExternalName")
    back = want(200, "PATCH", f"{services}/s", {"spec": {"type": "ClusterIP", "externalName": None}}, MERGE)
    assert back["spec"]["clusterIP"], back["spec"]
    want(422, "PATCH", f"{services}/s", {"spec": {"clusterIP": "10.43.200.200"}}, MERGE)
    node = want(200, "PATCH", f"{services}/s", {"spec": {"type": "NodePort"}}, MERGE)
    assert 30000 <= node["spec"]["ports"][0]["nodePort"] <= 32767
    assert address


def namespaces_are_patched_have_a_status_and_finalizers():
    name = namespace()
    path = f"/api/v1/namespaces/{name}"
    patched = want(200, "PATCH", path, {"metadata": {"labels": {"testLabel": "testValue"}}}, STRATEGIC)
    same(patched["metadata"]["labels"]["testLabel"], "testValue")
    same(patched["metadata"]["labels"]["kubernetes.io/metadata.name"], name)
    condition = {"type": "StatusPatch", "status": "True", "reason": "E2E", "message": "Set by a test"}
    patched = want(200, "PATCH", f"{path}/status", {"metadata": {"annotations": {"a": "b"}},
                                                     "status": {"conditions": [condition]}}, MERGE)
    same(patched["status"]["conditions"][0]["type"], "StatusPatch")
    finalized = want(200, "GET", path)
    finalized["spec"]["finalizers"].append("e2e.example.com/fake")
    finalized = want(200, "PUT", f"{path}/finalize", finalized)
    same(finalized["spec"]["finalizers"], ["kubernetes", "e2e.example.com/fake"])
    finalized["spec"]["finalizers"] = ["kubernetes"]
    want(200, "PUT", f"{path}/finalize", finalized)
    want(201, "POST", f"{path}/configmaps", {"metadata": {"name": "inside"}})
    want(200, "DELETE", path)
    within("the namespace is gone", lambda: ask("GET", path)[0] == 404)
    want(404, "GET", f"{path}/configmaps/inside")


def a_quota_counts_what_there_is_and_refuses_more():
    space = namespace()
    base = f"/api/v1/namespaces/{space}"
    hard = {"pods": "2", "configmaps": "3", "secrets": "1", "services": "1", "persistentvolumeclaims": "1",
            "requests.cpu": "500m", "limits.memory": "200Mi", "count/leases.coordination.k8s.io": "1"}
    want(201, "POST", f"{base}/resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": hard}})

    def used():
        return want(200, "GET", f"{base}/resourcequotas/q").get("status", {}).get("used", {})

    # The CA's map is there from the start.
    within("what is there is counted", lambda: used().get("configmaps") == "1" and used().get("pods") == "0")
    same(want(200, "GET", f"{base}/resourcequotas/q")["status"]["hard"], hard)
    want(201, "POST", f"{base}/secrets", {"metadata": {"name": "a"}})
    within("the secret is counted", lambda: used().get("secrets") == "1")
    refused = want(403, "POST", f"{base}/secrets", {"metadata": {"name": "b"}})
    same(refused["message"],
         'secrets "b" is forbidden: exceeded quota: q, requested: secrets=1, used: secrets=1, limited: secrets=1')
    want(201, "POST", f"{base}/services", {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}})
    want(403, "POST", f"{base}/services", {"metadata": {"name": "b"}, "spec": {"ports": [{"port": 80}]}})
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{space}/leases"
    want(201, "POST", leases, {"metadata": {"name": "a"}, "spec": {}})
    want(403, "POST", leases, {"metadata": {"name": "b"}, "spec": {}})
    small = pod("small", ["sleep", "1000"])
    refused = want(403, "POST", f"{base}/pods", small)
    same(refused["message"], 'pods "small" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c')
    small["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "300m"}, "limits": {"memory": "100Mi"}}
    want(201, "POST", f"{base}/pods", small)
    within("the pod is counted", lambda: (used().get("pods"), used().get("requests.cpu")) == ("1", "300m"))
    small["metadata"]["name"] = "second"
    refused = want(403, "POST", f"{base}/pods", small)
    same(refused["message"], 'pods "second" is forbidden: exceeded quota: q, requested: requests.cpu=300m, '
                             "used: requests.cpu=300m, limited: requests.cpu=500m")
    want(200, "DELETE", f"{base}/pods/small", {"gracePeriodSeconds": 0})
    want(200, "DELETE", f"{base}/secrets/a")
    within("what is gone is not counted", lambda: (used().get("pods"), used().get("secrets")) == ("0", "0"))
    status = want(200, "GET", f"{base}/resourcequotas/q/status")
    status["status"]["hard"]["pods"] = "9"
    want(200, "PUT", f"{base}/resourcequotas/q/status", status)
    want(200, "PATCH", f"{base}/resourcequotas/q", {"spec": {"hard": {"pods": "4"}}}, MERGE)
    within("the status follows", lambda: want(200, "GET", f"{base}/resourcequotas/q")["status"]["hard"]["pods"] == "4")


def scopes_of_a_quota_choose_pods():
    space = namespace()
    base = f"/api/v1/namespaces/{space}"
    for name, scope in (("effort", "BestEffort"), ("more", "NotBestEffort"), ("ends", "Terminating")):
        want(201, "POST", f"{base}/resourcequotas", {"metadata": {"name": name},
                                                     "spec": {"hard": {"pods": "1"}, "scopes": [scope]}})
    want(201, "POST", f"{base}/pods", pod("a", ["sleep", "1000"]))
    refused = want(403, "POST", f"{base}/pods", pod("b", ["sleep", "1000"]))
    assert "exceeded quota: effort" in refused["message"], refused["message"]

    def used(name):
        return want(200, "GET", f"{base}/resourcequotas/{name}").get("status", {}).get("used", {}).get("pods")

    within("each counts its own", lambda: (used("effort"), used("more"), used("ends")) == ("1", "0", "0"))


def a_limit_range_fills_in_and_refuses():
    space = namespace()
    base = f"/api/v1/namespaces/{space}"
    limits = [{"type": "Container", "min": {"cpu": "50m", "memory": "10Mi"}, "max": {"cpu": "500m", "memory": "500Mi"},
               "default": {"cpu": "500m", "memory": "500Mi"}, "defaultRequest": {"cpu": "100m", "memory": "200Mi"}},
              {"type": "Pod", "max": {"cpu": "800m"}}]
    want(201, "POST", f"{base}/limitranges", {"metadata": {"name": "l"}, "spec": {"limits": limits}})
    made = want(201, "POST", f"{base}/pods", pod("d", ["sleep", "1000"]))
    same(made["spec"]["containers"][0]["resources"],
         {"limits": {"cpu": "500m", "memory": "500Mi"}, "requests": {"cpu": "100m", "memory": "200Mi"}})
    partial = pod("partial", ["sleep", "1000"])
    partial["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "300m"}, "requests": {"memory": "100Mi"}}
    made = want(201, "POST", f"{base}/pods", partial)
    # A request that is missing is the client's own limit, before it is the range's default.
    same(made["spec"]["containers"][0]["resources"],
         {"limits": {"cpu": "300m", "memory": "500Mi"}, "requests": {"cpu": "300m", "memory": "100Mi"}})
    less = pod("less", ["sleep", "1000"])
    less["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "10m"}}
    refused = want(403, "POST", f"{base}/pods", less)
    same(refused["message"], 'pods "less" is forbidden: minimum cpu usage per Container is 50m, but request is 10m')
    more = pod("more", ["sleep", "1000"])
    more["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "600m"}}
    refused = want(403, "POST", f"{base}/pods", more)
    same(refused["message"], 'pods "more" is forbidden: maximum cpu usage per Container is 500m, but limit is 600m')
    wide = pod("wide", ["sleep", "1000"])
    wide["spec"]["containers"] = [dict(wide["spec"]["containers"][0], name=name) for name in ("a", "b")]
    refused = want(403, "POST", f"{base}/pods", wide)
    same(refused["message"], 'pods "wide" is forbidden: maximum cpu usage per Pod is 800m, but limit is 1')
    # Kubernetes fills the range's own defaults in, too.
    made = want(201, "POST", f"{base}/limitranges", {"metadata": {"name": "m"}, "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "1"}}]}})
    same(made["spec"]["limits"][0], {"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "1"},
                                     "defaultRequest": {"cpu": "1"}})
    want(422, "POST", f"{base}/limitranges", {"metadata": {"name": "n"}, "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"}}]}})
    want(200, "DELETE", f"{base}/limitranges/l")
    want(200, "DELETE", f"{base}/limitranges/m")
    want(201, "POST", f"{base}/pods", dict(less))


def pages_of_a_list_are_of_one_moment():
    base = f"/api/v1/namespaces/{namespace()}/podtemplates"
    template = {"template": {"metadata": {"name": "t"}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}}}
    for number in range(40):
        want(201, "POST", base, dict(template, metadata={"name": f"template-{number:04}"}))
    first = want(200, "GET", f"{base}?limit=17")
    same((len(first["items"]), first["metadata"]["remainingItemCount"]), (17, 23))
    # What happens between two pages is in none of them.
    want(200, "DELETE", f"{base}/template-0020")
    want(201, "POST", base, dict(template, metadata={"name": "template-0020a"}))
    want(200, "PATCH", f"{base}/template-0021", {"metadata": {"labels": {"late": "yes"}}}, MERGE)
    second = want(200, "GET", f"{base}?limit=17&continue={first['metadata']['continue']}")
    names = [o["metadata"]["name"] for o in second["items"]]
    same(names, [f"template-{number:04}" for number in range(17, 34)])
    assert "labels" not in second["items"][4]["metadata"]
    same((second["metadata"]["resourceVersion"], second["metadata"]["remainingItemCount"]),
         (first["metadata"]["resourceVersion"], 6))
    third = want(200, "GET", f"{base}?limit=17&continue={second['metadata']['continue']}")
    same(len(third["items"]), 6)
    assert not third["metadata"].get("continue") and "remainingItemCount" not in third["metadata"]
    refused = want(400, "GET", f"{base}?limit=17&continue={first['metadata']['continue']}&resourceVersion=1")
    same(refused["message"], "specifying resource version is not allowed when using continue")
    exact = want(200, "GET", f"{base}?resourceVersion={first['metadata']['resourceVersion']}&resourceVersionMatch=Exact")
    same(len(exact["items"]), 40)
    selected = want(200, "GET", f"{base}?limit=5&labelSelector=!late")
    assert "remainingItemCount" not in selected["metadata"] and selected["metadata"]["continue"]


def a_page_that_is_too_old_says_how_to_go_on():
    base = f"/api/v1/namespaces/{namespace()}/configmaps"
    for number in range(6):
        want(201, "POST", base, {"metadata": {"name": f"map-{number}"}, "data": {"n": "0"}})
    first = want(200, "GET", f"{base}?limit=2")
    for number in range(1100):
        want(200, "PATCH", f"{base}/map-5", {"data": {"n": f"{number} {'x' * 100}"}}, MERGE)
    code, expired = ask("GET", f"{base}?limit=2&continue={first['metadata']['continue']}")
    same((code, expired["reason"]), (410, "Expired"))
    same(expired["message"], "The provided continue parameter is too old to display a consistent list result. You can "
                             "start a new list without the continue parameter, or use the continue token in this "
                             "response to retrieve the remainder of the results. Continuing with the provided token "
                             "results in an inconsistent list - objects that were created, modified, or deleted between "
                             "the time the first chunk was returned and now may show up in the list.")
    rest = want(200, "GET", f"{base}?continue={expired['metadata']['continue']}")
    # The CA's map comes first.
    same([o["metadata"]["name"] for o in rest["items"]], ["map-1", "map-2", "map-3", "map-4", "map-5"])
    assert int(rest["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    of_then = f"{base}?resourceVersion={first['metadata']['resourceVersion']}&resourceVersionMatch=Exact"
    same(want(410, "GET", of_then)["message"], "The resourceVersion for the provided list is too old.")
    watch = Watch(f"{base}?watch=true&resourceVersion={first['metadata']['resourceVersion']}")
    event = watch.next()
    same((event["type"], event["object"]["code"], event["object"]["reason"]), ("ERROR", 410, "Expired"))


def a_watch_can_begin_with_a_list():
    base = f"/api/v1/namespaces/{namespace()}/configmaps"
    want(201, "POST", base, {"metadata": {"name": "a", "labels": {"x": "y"}}})
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    watch = Watch(f"{base}?{query}&labelSelector=x%3Dy&timeoutSeconds=2")
    same(watch.next()["type"], "ADDED")
    end = watch.next()
    same(end["type"], "BOOKMARK")
    same(end["object"]["metadata"]["annotations"], {"k8s.io/initial-events-end": "true"})
    want(200, "DELETE", f"{base}/a")
    same(watch.next()["type"], "DELETED")
    # It ends by itself, with a last bookmark.
    while event := watch.next():
        same(event["type"], "BOOKMARK")
    for query, code in (("watch=1&sendInitialEvents=true", 422),
                        ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", 422),
                        ("watch=1&resourceVersionMatch=NotOlderThan", 422),
                        ("watch=1&sendInitialEvents=true&resourceVersionMatch=Exact", 422),
                        ("resourceVersion=0&resourceVersionMatch=Exact", 422),
                        ("resourceVersionMatch=Exact", 422), ("resourceVersion=0&resourceVersionMatch=NotOlderThan", 200),
                        ("resourceVersion=x", 400), ("resourceVersion=0", 200), ("limit=x", 400),
                        ("continue=nonsense", 400), ("watch=1&resourceVersion=999999999999", 200)):
        connection = Local(SOCKET)
        connection.request("GET", f"{base}?{query}&timeoutSeconds=1")
        answer = connection.getresponse()
        same((query, answer.status), (query, code))
        connection.close()


def owners_take_their_dependents_along():
    base = f"/api/v1/namespaces/{namespace()}/configmaps"

    def owner(name):
        return want(201, "POST", base, {"metadata": {"name": name}})["metadata"]["uid"]

    def dependent(name, *owners, blocks=False):
        references = [{"apiVersion": "v1", "kind": "ConfigMap", "name": n, "uid": u, "blockOwnerDeletion": blocks}
                      for n, u in owners]
        return want(201, "POST", base, {"metadata": {"name": name, "ownerReferences": references}})

    def gone(name):
        return lambda: ask("GET", f"{base}/{name}")[0] == 404

    # Background: the owner goes at once, its dependents follow, and theirs.
    uid = owner("a")
    second = dependent("a-child", ("a", uid))
    dependent("a-grandchild", ("a-child", second["metadata"]["uid"]))
    want(200, "DELETE", f"{base}/a", {"propagationPolicy": "Background"})
    want(404, "GET", f"{base}/a")
    within("the child is gone", gone("a-child"))
    within("the grandchild is gone", gone("a-grandchild"))
    # Foreground: the owner goes last.
    uid = owner("b")
    made = dependent("b-child", ("b", uid), blocks=True)
    want(200, "PATCH", f"{base}/b-child", {"metadata": {"finalizers": ["example.com/hold"]}}, MERGE)
    marked = want(200, "DELETE", f"{base}/b", {"propagationPolicy": "Foreground"})
    same(marked["metadata"]["finalizers"], ["foregroundDeletion"])
    within("the child is marked", lambda: want(200, "GET", f"{base}/b-child")["metadata"].get("deletionTimestamp"))
    assert want(200, "GET", f"{base}/b")["metadata"]["deletionTimestamp"] and made
    want(200, "PATCH", f"{base}/b-child", {"metadata": {"finalizers": None}}, MERGE)
    within("the child is gone", gone("b-child"))
    within("the owner is gone", gone("b"))
    # Orphan: the dependents stay, without their reference.
    uid = owner("c")
    dependent("c-child", ("c", uid))
    want(200, "DELETE", f"{base}/c?propagationPolicy=Orphan")
    within("the owner is gone", gone("c"))
    assert "ownerReferences" not in want(200, "GET", f"{base}/c-child")["metadata"]
    # Whoever has another owner stays, and loses the reference to the one that is gone.
    one, two = owner("d"), owner("e")
    dependent("d-child", ("d", one), ("e", two))
    want(200, "DELETE", f"{base}/d")
    within("one owner is left", lambda: [r["name"] for r in want(200, "GET", f"{base}/d-child")["metadata"]["ownerReferences"]] == ["e"])
    # An owner that never was, or was another one of this name.
    dependent("lost", ("e", "00000000-0000-0000-0000-000000000000"))
    within("it has no owner", gone("lost"))
    want(200, "GET", f"{base}/d-child")
    refused = want(422, "DELETE", f"{base}/e", {"propagationPolicy": "Nowhere"})
    same(refused["reason"], "Invalid")
    want(422, "DELETE", f"{base}/e", {"propagationPolicy": "Orphan", "orphanDependents": True})


def pods_of_an_owner_end_with_it():
    base = f"/api/v1/namespaces/{namespace()}"
    uid = want(201, "POST", f"{base}/configmaps", {"metadata": {"name": "o"}})["metadata"]["uid"]
    child = pod("p", ["sleep", "1000"])
    child["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": uid}]
    want(201, "POST", f"{base}/pods", child)
    phase(f"{base}/pods", "p", "Running")
    want(200, "DELETE", f"{base}/configmaps/o")
    within("the pod is gone", lambda: ask("GET", f"{base}/pods/p")[0] == 404)


def a_pod_and_a_service_are_reached_through_the_server():
    base = f"/api/v1/namespaces/{namespace()}"
    script = ["sh", "-c", "mkdir -p /w/sub; echo index > /w/index.html; echo deep > /w/sub/f; exec httpd -f -p 8080 -h /w"]
    web = pod("web", script)
    web["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": 8080}]
    web["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"port": 8080}, "periodSeconds": 1}
    want(201, "POST", f"{base}/pods", web)
    want(201, "POST", f"{base}/services", {"metadata": {"name": "svc"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"name": "portname", "port": 80, "targetPort": "http"}]}})
    within("the pod is ready", lambda: any(c["type"] == "Ready" and c["status"] == "True" for c in want(
        200, "GET", f"{base}/pods/web")["status"].get("conditions", [])))
    within("the service has an endpoint", lambda: want(200, "GET", f"{base}/services/svc")
           and ask("GET", f"{base}/services/svc:portname/proxy/")[0] == 200)
    for path in ("pods/web/proxy/", "pods/web:8080/proxy/", "pods/http:web:8080/proxy/", "pods/web:http/proxy/",
                 "pods/http:web:/proxy/", "services/svc/proxy/", "services/svc:80/proxy/", "services/svc:portname/proxy/",
                 "services/http:svc:portname/proxy/", "services/http:svc:80/proxy/", "services/http:svc:/proxy/"):
        code, text = ask("GET", f"{base}/{path}")
        same((path, code, text), (path, 200, "index\n"))
        same(ask("GET", f"{base}/{path}sub/f"), (200, "deep\n"))
    code, _ = ask("GET", f"{base}/pods/web:8080/proxy")
    assert code in (200, 301), code
    same(ask("GET", f"{base}/services/svc:nope/proxy/")[0], 503)
    same(ask("GET", f"{base}/services/none/proxy/")[0], 404)
    same(ask("GET", f"{base}/pods/web:9/proxy/")[0], 503 if ask("GET", f"{base}/pods/web:9/proxy/")[0] == 503 else 500)
    same(ask("GET", f"{base}/pods/web:8080/proxy/none")[0], 404)
    want(200, "DELETE", f"{base}/pods/web", {"gracePeriodSeconds": 0})


def reviews_say_who_asks():
    review = want(201, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews",
                  {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
    assert "system:masters" in review["status"]["userInfo"]["groups"], review
    space = namespace()
    account = f"/api/v1/namespaces/{space}/serviceaccounts/default"
    within("the account is there", lambda: ask("GET", account)[0] == 200)
    token = want(201, "POST", f"{account}/token", {"spec": {"expirationSeconds": 700}})["status"]["token"]
    review = want(201, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": token}})
    same((review["status"]["authenticated"], review["status"]["user"]["username"]),
         (True, f"system:serviceaccount:{space}:default"))
    review = want(201, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": token + "x"}})
    assert not review["status"].get("authenticated")


def ephemeral_containers_are_put_and_patched():
    pods = f"/api/v1/namespaces/{namespace()}/pods"
    want(201, "POST", pods, pod("p", ["sleep", "1000"]))
    phase(pods, "p", "Running")
    new = {"spec": {"ephemeralContainers": [{"name": "debugger", "image": "busybox", "command": ["sleep", "100"]}]}}
    want(200, "PATCH", f"{pods}/p/ephemeralcontainers", new, STRATEGIC)
    within("it runs", lambda: any("running" in s.get("state", {}) for s in want(200, "GET", f"{pods}/p")["status"].get(
        "ephemeralContainerStatuses", [])))

    def put():
        value = want(200, "GET", f"{pods}/p/ephemeralcontainers")
        value["spec"]["ephemeralContainers"].append({"name": "second", "image": "busybox", "command": ["true"]})
        return ask("PUT", f"{pods}/p/ephemeralcontainers", value)[0] == 200

    within("a second one is put", put)
    same(len(want(200, "GET", f"{pods}/p")["spec"]["ephemeralContainers"]), 2)
    want(200, "DELETE", f"{pods}/p", {"gracePeriodSeconds": 0})


def a_pod_is_resized_in_place():
    pods = f"/api/v1/namespaces/{namespace()}/pods"
    small = pod("p", ["sleep", "1000"])
    small["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}
    want(201, "POST", pods, small)
    phase(pods, "p", "Running")
    patch = {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "150m"}, "limits": {"cpu": "300m"}}}]}}
    want(422, "PATCH", f"{pods}/p", patch, STRATEGIC)
    changed = want(200, "PATCH", f"{pods}/p/resize", patch, STRATEGIC)
    same(changed["spec"]["containers"][0]["resources"]["requests"], {"cpu": "150m"})
    same(changed["metadata"]["generation"], 2)
    within("the status follows", lambda: (want(200, "GET", f"{pods}/p")["status"]["containerStatuses"][0].get(
        "resources") or {}).get("requests") == {"cpu": "150m"})
    bad = {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": None}, "limits": {"cpu": None}}}]}}
    want(422, "PATCH", f"{pods}/p/resize", bad, STRATEGIC)
    want(200, "DELETE", f"{pods}/p", {"gracePeriodSeconds": 0})


def logs_are_read_with_every_option():
    pods = f"/api/v1/namespaces/{namespace()}/pods"
    want(201, "POST", pods, pod("p", ["sh", "-c", "for i in 1 2 3; do echo line $i; done"], restartPolicy="Never"))
    phase(pods, "p", "Succeeded")
    for query, expected in (("", "line 1\nline 2\nline 3\n"), ("?tailLines=1", "line 3\n"), ("?tailLines=0", ""),
                            ("?limitBytes=6", "line 1"), ("?sinceSeconds=1000", "line 1\nline 2\nline 3\n"),
                            ("?container=c&follow=true", "line 1\nline 2\nline 3\n"), ("?sinceTime=2060-01-01T00:00:00Z", "")):
        same((query, ask("GET", f"{pods}/p/log{query}")), (query, (200, expected)))
    for query, code in (("?tailLines=-1", 422), ("?sinceSeconds=0", 422), ("?limitBytes=0", 422), ("?container=x", 400),
                        ("?previous=true", 400), ("?sinceSeconds=1&sinceTime=2060-01-01T00:00:00Z", 422)):
        same((query, ask("GET", f"{pods}/p/log{query}")[0]), (query, code))


def events_of_both_groups_are_the_same():
    space = namespace()
    old, new = f"/api/v1/namespaces/{space}/events", f"/apis/events.k8s.io/v1/namespaces/{space}/events"
    want(201, "POST", old, {"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": space, "name": "p"},
                            "message": "hello", "reason": "R", "type": "Normal", "source": {"component": "test"}})
    seen = want(200, "GET", f"{new}/e")
    same((seen["note"], seen["regarding"]["name"]), ("hello", "p"))
    same(len(want(200, "GET", f"{old}?fieldSelector=involvedObject.name%3Dp,reason%3DR")["items"]), 1)
    same(len(want(200, "GET", f"{new}?fieldSelector=regarding.name%3Dp")["items"]), 1)
    want(200, "DELETE", f"{new}?labelSelector=a%21%3Db")
    same(want(200, "GET", old)["items"], [])


def secrets_and_maps_that_may_not_change_do_not():
    base = f"/api/v1/namespaces/{namespace()}"
    for kind in ("configmaps", "secrets"):
        value = base64.b64encode(b"v").decode()
        want(201, "POST", f"{base}/{kind}", {"metadata": {"name": "i"}, "immutable": True, "data": {"k": value}})
        for patch in ({"data": {"k": "dw=="}}, {"immutable": False}, {"immutable": None}):
            refused = want(422, "PATCH", f"{base}/{kind}/i", patch, MERGE)
            assert "field is immutable when `immutable` is set" in refused["message"], refused["message"]
        want(200, "PATCH", f"{base}/{kind}/i", {"metadata": {"labels": {"a": "b"}}}, MERGE)
        want(422, "POST", f"{base}/{kind}", {"metadata": {"name": "j"}, "data": {"": value}})


def eviction_and_binding_are_answered():
    base = f"/api/v1/namespaces/{namespace()}"
    want(201, "POST", f"{base}/pods", pod("p", ["sleep", "1000"]))
    phase(f"{base}/pods", "p", "Running")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    want(201, "POST", f"{base}/pods/p/eviction", dict(eviction, deleteOptions={"dryRun": ["All"]}))
    assert "deletionTimestamp" not in want(200, "GET", f"{base}/pods/p")["metadata"]
    want(409, "POST", f"{base}/pods/p/binding", {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "x"}})
    want(201, "POST", f"{base}/pods/p/eviction", eviction)
    within("it is gone", lambda: ask("GET", f"{base}/pods/p")[0] == 404)
    want(404, "POST", f"{base}/pods/p/eviction", eviction)


def a_node_is_patched_and_its_status_too():
    node = want(200, "GET", "/api/v1/nodes")["items"][0]["metadata"]["name"]
    path = f"/api/v1/nodes/{node}"
    want(200, "PATCH", path, {"metadata": {"labels": {"conformance": "yes"}}}, STRATEGIC)
    same(len(want(200, "GET", "/api/v1/nodes?labelSelector=conformance")["items"]), 1)
    patch = {"status": {"capacity": {"example.com/dongle": "4"}}}
    patched = want(200, "PATCH", f"{path}/status", patch, STRATEGIC)
    same(patched["status"]["capacity"]["example.com/dongle"], "4")
    want(200, "PATCH", path, {"metadata": {"labels": {"conformance": None}}}, MERGE)
    want(200, "PATCH", f"{path}/status", [{"op": "remove", "path": "/status/capacity/example.com~1dongle"}],
         "application/json-patch+json")


def bad_requests_change_nothing():
    base = f"/api/v1/namespaces/{namespace()}/configmaps"
    for method, path, body, media, code in (
            ("POST", base, {"metadata": {"name": "Bad_Name"}}, JSON, 422),
            ("POST", base, {"metadata": {"name": "a", "labels": {"-": "v"}}}, JSON, 422),
            ("POST", base, {"metadata": {"name": "a"}, "kind": "Secret", "apiVersion": "v1"}, JSON, 400),
            ("POST", base, {"metadata": {"name": "a", "namespace": "elsewhere"}}, JSON, 400),
            ("POST", f"{base}?fieldValidation=Strict", {"metadata": {"name": "a"}, "nope": 1}, JSON, 400),
            ("POST", base, {"metadata": {"name": "a"}, "data": {"k": 1}}, JSON, 400),
            ("POST", base, [], JSON, 400), ("POST", base, "text", JSON, 400),
            ("POST", base, {"metadata": {"name": "a"}}, "text/plain", 415),
            ("POST", base, {"metadata": {"name": "a"}, "data": {"k": "x" * (2 << 20)}}, JSON, 422),
            ("PUT", f"{base}/none", {"metadata": {"name": "none"}}, JSON, 404),
            ("PATCH", f"{base}/none", {}, MERGE, 404), ("PATCH", f"{base}/none", {}, JSON, 415),
            ("DELETE", f"{base}/none", None, JSON, 404), ("GET", f"{base}/none", None, JSON, 404),
            ("POST", f"{base}/none", {}, JSON, 405), ("PUT", base, {}, JSON, 405),
            ("GET", "/api/v1/nothings", None, JSON, 404), ("GET", "/apis/none/v1/things", None, JSON, 404),
            ("POST", "/api/v1/namespaces/nowhere/configmaps", {"metadata": {"name": "a"}}, JSON, 404)):
        found, value = ask(method, path, body, media)
        same((method, path[-40:], str(body)[:60], found), (method, path[-40:], str(body)[:60], code))
        same(value["kind"], "Status")
    same([o["metadata"]["name"] for o in want(200, "GET", base)["items"]], ["kube-root-ca.crt"])


TESTS = [function for name, function in list(globals().items())
         if callable(function) and getattr(function, "__module__", "") == "__main__" and "_" in name and not name.startswith("_")]


def main():
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    failed = []
    for function in (function for function in TESTS if wanted in function.__name__):
        try:
            function()
        except Exception:  # the next one is still worth knowing
            failed.append(f"{function.__name__}\n{traceback.format_exc(limit=-3)}")
    print("\n".join(failed), end="")
    sys.exit(1 if failed else 0)


SOCKET = sys.argv[1] if len(sys.argv) > 1 else ""
if __name__ == "__main__":
    main()
