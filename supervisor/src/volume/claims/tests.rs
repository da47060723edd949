use super::*;
use serde_json::json;

fn claim(name: &str, spec: serde_json::Value) -> PersistentVolumeClaim {
    let value = json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")}, "spec": spec});
    serde_json::from_value(value).unwrap()
}

fn volume(name: &str, spec: serde_json::Value) -> PersistentVolume {
    let mut full = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "manual",
        "hostPath": {"path": "/data"}, "persistentVolumeReclaimPolicy": "Retain"});
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let labels = json!({"disk": "ssd"});
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": full})).unwrap()
}

fn world(claims: Vec<PersistentVolumeClaim>, volumes: Vec<PersistentVolume>) -> World {
    let node = NodeLabels { name: "node1".into(), labels: [("zone".to_owned(), "a".to_owned())].into() };
    World { claims, volumes, node, directory: "/claims".into(), ..World::default() }
}

/// Phase of the claim, its volume, and the reason for which it waits.
fn settled(mut world: World, name: &str) -> (String, String, Option<&'static str>, World) {
    let waiting = settle(&mut world);
    let claim = world.claims.iter().find(|claim| super::name(&claim.metadata) == name).unwrap();
    let phase = claim.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
    let reason = waiting.iter().find(|one| one.name == name).map(|one| one.reason);
    (phase, volume, reason, world)
}

fn pod(name: &str, volumes: serde_json::Value) -> Pod {
    let value = json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
        "spec": {"containers": [], "volumes": volumes}});
    serde_json::from_value(value).unwrap()
}

/// VO35: class, access modes, size, selector, mode and node decide; the smallest that fits wins.
#[test]
fn a_claim_gets_the_smallest_volume_that_fits() {
    let wish = |more: serde_json::Value| {
        let mut spec = json!({"storageClassName": "manual", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "500Mi"}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claim("c", spec)
    };
    let elsewhere = json!({"required": {"nodeSelectorTerms": [{"matchExpressions":
        [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node2"]}]}]}});
    let here = json!({"required": {"nodeSelectorTerms": [{"matchExpressions":
        [{"key": "zone", "operator": "In", "values": ["a"]}]}]}});
    let volumes = || {
        vec![
            volume("big", json!({"capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce", "ReadWriteMany"]})),
            volume("fit", json!({"nodeAffinity": here})),
            volume("far", json!({"capacity": {"storage": "600Mi"}, "nodeAffinity": elsewhere})),
            volume("small", json!({"capacity": {"storage": "100Mi"}})),
            volume("raw", json!({"capacity": {"storage": "600Mi"}, "volumeMode": "Block"})),
            volume("class", json!({"capacity": {"storage": "600Mi"}, "storageClassName": "other"})),
            volume(
                "taken",
                json!({"capacity": {"storage": "600Mi"},
                "claimRef": {"namespace": "ns", "name": "x", "uid": "y"}}),
            ),
        ]
    };
    for (more, expected) in [
        (json!({}), Some("fit")),
        (json!({"accessModes": ["ReadWriteMany"]}), Some("big")),
        (json!({"accessModes": ["ReadWriteOncePod"]}), None),
        (json!({"resources": {"requests": {"storage": "2Gi"}}}), Some("big")),
        (json!({"volumeMode": "Block"}), Some("raw")),
        (json!({"selector": {"matchLabels": {"disk": "hdd"}}}), None),
        (
            json!({"selector": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}),
            Some("fit"),
        ),
        (json!({"storageClassName": ""}), None),
        (json!({"volumeName": "small"}), Some("small")),
    ] {
        let (phase, volume, ..) = settled(world(vec![wish(more.clone())], volumes()), "c");
        match expected {
            Some(expected) => assert_eq!((phase.as_str(), volume.as_str()), ("Bound", expected), "{more}"),
            None => assert_eq!((phase.as_str(), volume.as_str()), ("", ""), "{more}"),
        }
    }
}

#[test]
fn two_claims_never_get_one_volume() {
    let spec = json!({"storageClassName": "manual", "accessModes": ["ReadWriteOnce"]});
    let world = world(vec![claim("a", spec.clone()), claim("b", spec)], vec![volume("one", json!({}))]);
    let (phase, _, _, world) = settled(world, "a");
    assert_eq!(phase, "Bound");
    assert_eq!(settled(world, "b").2, Some("ProvisioningFailed"));
}

#[test]
fn a_reserved_volume_waits_for_its_claim() {
    let reserved = volume("one", json!({"claimRef": {"namespace": "ns", "name": "mine"}}));
    let spec = json!({"storageClassName": "manual", "accessModes": ["ReadWriteOnce"]});
    let world = world(vec![claim("a", spec.clone()), claim("mine", spec)], vec![reserved]);
    let (phase, .., world) = settled(world, "mine");
    assert_eq!(phase, "Bound");
    assert_eq!(settled(world, "a").0, "");
}

/// VO35: the built-in class makes a directory for the first pod.
#[test]
fn a_claim_without_a_class_gets_a_directory_when_a_pod_wants_it() {
    let mut world = world(vec![claim("data", json!({"accessModes": ["ReadWriteOnce"]}))], Vec::new());
    let (phase, _, reason, _) = settled(world.clone(), "data");
    assert_eq!((phase.as_str(), reason), ("", Some("WaitForFirstConsumer")));
    world.pods = vec![pod("p", json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]))];
    let (phase, volume, _, world) = settled(world, "data");
    assert_eq!((phase.as_str(), volume.as_str()), ("Bound", "pvc-uid-data"));
    assert_eq!(own_directory(&world.volumes[0]), Some(Path::new("/claims/ns_data_uid-data")));
    assert_eq!(world.claims[0].spec.as_ref().unwrap().storage_class_name.as_deref(), Some("local"));
    assert_eq!(world.claims[0].metadata.finalizers.as_deref(), Some(&[CLAIM_PROTECTION.to_owned()][..]));
}

/// Whatever class there is: a claim that can't be helped says why.
#[test]
fn a_claim_that_waits_says_why() {
    let class = |name: &str, provisioner: &str| StorageClass {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        provisioner: provisioner.into(),
        ..StorageClass::default()
    };
    let classes = vec![class("csi", "csi.example"), class("none", "kubernetes.io/no-provisioner")];
    for (spec, expected) in [
        (json!({"storageClassName": "csi"}), "ExternalProvisioning"),
        (json!({"storageClassName": "none"}), "FailedBinding"),
        (json!({"storageClassName": "ghost"}), "ProvisioningFailed"),
        (json!({"storageClassName": ""}), "FailedBinding"),
        // The class that every node has is there beside them.
        (json!({}), "WaitForFirstConsumer"),
    ] {
        let mut world = world(vec![claim("c", spec.clone())], Vec::new());
        world.classes = classes.clone();
        assert_eq!(settled(world, "c").2, Some(expected), "{spec}");
    }
}

/// The newest class that is marked counts; the node's own only while no object of its name says otherwise.
#[test]
fn a_claim_without_a_class_gets_the_default_one() {
    let class = |name: &str, marked: &str, day: u8| -> StorageClass {
        let made = format!("2026-01-{day:02}T00:00:00Z");
        let metadata = json!({"name": name, "annotations": {DEFAULT_CLASS: marked}, "creationTimestamp": made});
        serde_json::from_value(json!({"metadata": metadata, "provisioner": "csi.example"})).unwrap()
    };
    for (classes, expected) in [
        (vec![class("a", "false", 1)], Some("local")),
        (vec![class("a", "true", 1)], Some("a")),
        (vec![class("a", "true", 1), class("b", "true", 2), class("c", "true", 2)], Some("b")),
        (vec![class("local", "false", 1)], None),
    ] {
        let mut world = world(vec![claim("c", json!({}))], Vec::new());
        world.classes = classes;
        settle(&mut world);
        assert_eq!(world.claims[0].spec.as_ref().unwrap().storage_class_name.as_deref(), expected);
    }
}

/// What others wrote into a status stays when something is bound, and a free volume is protected.
#[test]
fn binding_changes_its_own_fields_alone() {
    let mut claim = claim("c", json!({"storageClassName": "manual", "accessModes": ["ReadWriteOnce"]}));
    let conditions = json!({"phase": "Pending", "conditions": [{"type": "Resizing", "status": "True"}]});
    claim.status = Some(serde_json::from_value(conditions).unwrap());
    let mut free = volume("v", json!({}));
    free.status = Some(serde_json::from_value(json!({"phase": "Pending", "reason": "of others"})).unwrap());
    let mut before = world(Vec::new(), vec![free]);
    settle(&mut before);
    let protected = before.volumes[0].metadata.finalizers.as_deref();
    assert_eq!(protected, Some(&[VOLUME_PROTECTION.to_owned()][..]));
    before.claims.push(claim);
    let (phase, volume, _, after) = settled(before, "c");
    assert_eq!((phase.as_str(), volume.as_str()), ("Bound", "v"));
    assert_eq!(after.claims[0].status.as_ref().unwrap().conditions.as_ref().map(Vec::len), Some(1));
    let status = after.volumes[0].status.as_ref().unwrap();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Bound"), Some("of others")));
}

/// Nobody waits for a pod that no node has, whichever way its manifest says so.
#[test]
fn a_claim_that_goes_waits_for_pods_that_have_a_node() {
    for (node, steps) in [(json!(null), 1), (json!(""), 1), (json!("node1"), 0)] {
        let mut going = claim("c", json!({}));
        going.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        let mut user = pod("p", json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]));
        user.spec.as_mut().unwrap().node_name = serde_json::from_value(node.clone()).unwrap();
        let mut world = world(vec![going], Vec::new());
        world.pods.push(user);
        assert_eq!(reconcile(&world).0.len(), steps, "{node}");
    }
}

/// DE6
#[test]
fn a_volume_with_somebody_elses_finalizer_stays() {
    let mut going = volume("v", json!({}));
    going.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    going.metadata.finalizers = Some(vec![VOLUME_PROTECTION.to_owned(), "example.com/mine".to_owned()]);
    assert_eq!(reconcile(&world(Vec::new(), vec![going.clone()])).0, Vec::new());
    going.metadata.finalizers = Some(vec![VOLUME_PROTECTION.to_owned()]);
    let (steps, _) = reconcile(&world(Vec::new(), vec![going]));
    assert!(matches!(steps.as_slice(), [Step::RemoveVolume { .. }]));
}

/// Reclaim policies; what an administrator made is never deleted.
#[test]
fn a_released_volume_obeys_its_policy() {
    let gone = json!({"namespace": "ns", "name": "gone", "uid": "u"});
    let of = |policy: &str, ours: bool| {
        let mut volume = volume("v", json!({"claimRef": gone, "persistentVolumeReclaimPolicy": policy}));
        if ours {
            volume.metadata.annotations = Some([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into());
            let local = json!({"path": "/claims/x"});
            volume.spec.as_mut().unwrap().local = Some(serde_json::from_value(local).unwrap());
        }
        let (steps, _) = reconcile(&world(Vec::new(), vec![volume]));
        match steps.as_slice() {
            [Step::RemoveVolume { directory, .. }] => format!("removed with {directory:?}"),
            [Step::UpdateVolume(volume)] => volume.status.as_ref().unwrap().phase.clone().unwrap(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(of("Delete", true), "removed with Some(\"/claims/x\")");
    assert_eq!(of("Delete", false), "Failed");
    for ours in [true, false] {
        assert_eq!(of("Retain", ours), "Released");
    }
}

#[test]
fn a_claim_whose_volume_vanished_is_lost() {
    let spec = json!({"storageClassName": "manual", "accessModes": ["ReadWriteOnce"]});
    let (.., mut world) = settled(world(vec![claim("c", spec)], vec![volume("v", json!({}))]), "c");
    world.volumes.clear();
    assert_eq!(settled(world, "c").0, "Lost");
}

/// VO37: made for the pod, owned by it, gone with it.
#[test]
fn an_ephemeral_claim_lives_as_long_as_its_pod() {
    let volumes = json!([{"name": "tmp", "ephemeral": {"volumeClaimTemplate":
        {"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}}}]);
    let mut world = world(Vec::new(), Vec::new());
    world.pods = vec![pod("p", volumes)];
    let (phase, .., mut world) = settled(world, "p-tmp");
    assert_eq!(phase, "Bound");
    assert_eq!(world.claims[0].metadata.labels.as_ref().unwrap()["a"], "b");
    // Objects of the test have no uid unless they are given one.
    world.claims[0].metadata.uid = Some("u".into());
    world.volumes[0].spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = Some("u".into());
    world.pods[0].metadata.uid = Some("another pod of that name".into());
    settle(&mut world);
    let of_the_first = world.claims.iter().any(|claim| claim.metadata.uid.as_deref() == Some("u"));
    assert!(!of_the_first, "{:?}", world.claims);
}

#[test]
fn coming_to_rest_is_final() {
    let mut world = world(
        vec![claim("a", json!({})), claim("b", json!({"storageClassName": "manual"}))],
        vec![volume("v", json!({})), volume("free", json!({"storageClassName": "x"}))],
    );
    world.pods = vec![pod("p", json!([{"name": "v", "persistentVolumeClaim": {"claimName": "a"}}]))];
    settle(&mut world);
    assert_eq!(reconcile(&world).0, Vec::new());
}
