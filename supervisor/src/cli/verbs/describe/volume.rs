//! Volumes of a pod.

use serde_json::Value;

use super::pod::optional;
use super::{Sheet, UNSET, list, plain, text, text_or};

pub(super) fn describe_all(sheet: &mut Sheet, pod: &Value) {
    let volumes = list(pod, "/spec/volumes");
    if volumes.is_empty() {
        return sheet.field(0, "Volumes", super::NONE);
    }
    sheet.line(0, "Volumes:");
    for volume in volumes {
        sheet.line(1, format_args!("{}:", text(volume, "/name")));
        describe(sheet, volume);
    }
}

fn describe(sheet: &mut Sheet, volume: &Value) {
    let mut kind = |what: &str| sheet.field(2, "Type", what);
    if let Some(source) = volume.get("emptyDir") {
        kind("EmptyDir (a temporary directory that shares a pod's lifetime)");
        sheet.field(2, "Medium", text(source, "/medium"));
        sheet.field(2, "SizeLimit", text_or(source, "/sizeLimit", UNSET));
    } else if let Some(source) = volume.get("hostPath") {
        kind("HostPath (bare host directory volume)");
        sheet.field(2, "Path", text(source, "/path"));
        sheet.field(2, "HostPathType", text(source, "/type"));
    } else if let Some(source) = volume.get("configMap") {
        kind("ConfigMap (a volume populated by a ConfigMap)");
        sheet.field(2, "Name", text(source, "/name"));
        sheet.field(2, "Optional", optional(source));
    } else if let Some(source) = volume.get("secret") {
        kind("Secret (a volume populated by a Secret)");
        sheet.field(2, "SecretName", text(source, "/secretName"));
        sheet.field(2, "Optional", optional(source));
    } else if let Some(source) = volume.get("persistentVolumeClaim") {
        kind("PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)");
        sheet.field(2, "ClaimName", text(source, "/claimName"));
        sheet.field(2, "ReadOnly", source["readOnly"] == true);
    } else if let Some(source) = volume.get("downwardAPI") {
        kind("DownwardAPI (a volume populated by information about the pod)");
        items(sheet, source);
    } else if let Some(source) = volume.get("projected") {
        kind("Projected (a volume that contains injected data from multiple sources)");
        list(source, "/sources").iter().for_each(|source| projected(sheet, source));
    } else {
        let known = volume.as_object().into_iter().flatten().find(|(key, _)| *key != "name");
        kind(known.map_or("<unknown>", |(key, _)| key));
    }
}

fn projected(sheet: &mut Sheet, source: &Value) {
    if let Some(secret) = source.get("secret") {
        sheet.field(2, "SecretName", text(secret, "/name"));
        sheet.field(2, "Optional", optional(secret));
    } else if let Some(map) = source.get("configMap") {
        sheet.field(2, "ConfigMapName", text(map, "/name"));
        sheet.field(2, "Optional", optional(map));
    } else if source.get("downwardAPI").is_some() {
        sheet.field(2, "DownwardAPI", true);
    } else if let Some(token) = source.get("serviceAccountToken") {
        sheet.field(2, "TokenExpirationSeconds", plain(&token["expirationSeconds"]));
    }
}

fn items(sheet: &mut Sheet, source: &Value) {
    sheet.line(2, "Items:");
    for item in list(source, "/items") {
        let from = text_or(item, "/fieldRef/fieldPath", text(item, "/resourceFieldRef/resource"));
        sheet.line(3, format_args!("{from} -> {}", text(item, "/path")));
    }
}
