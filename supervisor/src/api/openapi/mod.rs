//! The published schema: OpenAPI v2 and v3, for `kubectl explain`, for clients that validate, and for those that look
//! there which parameters a server knows.
//!
//! The definitions lie compressed in the program, one to a line; `cargo xtask codegen openapi` writes them. A document
//! is put together as text when it is asked for and not kept: clients ask once and cache it by its hash.

mod paths;
mod protobuf;
mod resources;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use paths::Dialect;
use resources::Resource;

static DEFINITIONS: &[u8] = include_bytes!("definitions.zst");
/// Bytes of the definitions when they are decompressed; more is a broken build.
const DEFINITIONS_MAX: u64 = 8 * 1024 * 1024;

const REFERENCE_V3: &str = "#/components/schemas/";
const REFERENCE_V2: &str = "#/definitions/";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// `/openapi/v2`, as JSON.
///
/// # Errors
/// The definitions in the program can't be decompressed.
pub fn v2() -> io::Result<Vec<u8>> {
    let text = definitions()?;
    let mut out = String::with_capacity(text.len() * 2);
    let info = json!({"title": "Kubernetes", "version": version()});
    out += &format!(r#"{{"swagger":"2.0","info":{info},"paths":"#);
    out += &format!("{}", paths_of(Resource::all(), Dialect::V2));
    out.push_str(r#","definitions":{"#);
    for (index, (name, schema)) in lines(&text).enumerate() {
        let comma = if index == 0 { "" } else { "," };
        out += &format!("{comma}\"{name}\":{}", in_v2(name, schema));
    }
    out.push_str("}}");
    Ok(out.into_bytes())
}

/// How clients ask for [`v2_protobuf`] in `Accept`; clients that take JSON get that.
pub const V2_PROTOBUF_ACCEPT: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The `Content-Type` of [`v2_protobuf`]: an `@` is no part of a media type, and clients refuse it there.
pub const V2_PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v2` as a protocol buffer: kubectl up to 1.28 reads nothing else there.
///
/// # Errors
/// The definitions in the program can't be decompressed, or are no JSON.
pub fn v2_protobuf() -> io::Result<Vec<u8>> {
    let text = definitions()?;
    let mut document = protobuf::Document::new("Kubernetes", version());
    for resource in Resource::all() {
        for (path, item) in paths::of(&resource, Dialect::V2) {
            document.path(&path, &item);
        }
    }
    for (name, schema) in lines(&text) {
        document.definition(name, &serde_json::from_str(&in_v2(name, schema))?);
    }
    Ok(document.finish())
}

/// `/openapi/v3`: where the document of each group and version is. The hash is part of the address, so that clients may
/// keep a document for as long as they like.
pub fn v3_index() -> Value {
    let place = |path: &str| json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", hash(path))});
    let groups: BTreeSet<String> = Resource::all().map(|resource| resource.root()).collect();
    let paths: Map<String, Value> = groups.iter().map(|path| (path.clone(), place(path))).collect();
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1` and its like, by what follows `/openapi/v3/`; none for a group or version that isn't served.
///
/// # Errors
/// The definitions in the program can't be decompressed.
pub fn v3(path: &str) -> io::Result<Option<Vec<u8>>> {
    let path = path.trim_matches('/');
    let resources: Vec<Resource> = Resource::all().filter(|resource| resource.root() == path).collect();
    if resources.is_empty() {
        return Ok(None);
    }
    let text = definitions()?;
    let all: BTreeMap<&str, &str> = lines(&text).collect();
    let info = json!({"title": "Kubernetes", "version": version()});
    let paths = paths_of(resources.into_iter(), Dialect::V3).to_string();
    let mut out = format!(r#"{{"openapi":"3.0.0","info":{info},"paths":{paths},"components":{{"schemas":{{"#);
    for (index, name) in closure(&paths, &all).into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        out += &format!("{comma}\"{name}\":{}", all.get(name).copied().unwrap_or("{}"));
    }
    out.push_str("}}}");
    Ok(Some(out.into_bytes()))
}

/// The hash of the document at a path: that of everything it is made from.
pub fn hash(path: &str) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA512_256);
    for part in [DEFINITIONS, resources::TABLE.as_bytes(), version().as_bytes(), path.as_bytes()] {
        context.update(part);
    }
    context.finish().as_ref().iter().fold(String::new(), |mut hex, byte| {
        hex += &format!("{byte:02X}");
        hex
    })
}

fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| format!("v{}", env!("CARGO_PKG_VERSION")))
}

fn definitions() -> io::Result<String> {
    let mut text = String::new();
    zstd::Decoder::with_buffer(DEFINITIONS)?.take(DEFINITIONS_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once('\t'))
}

fn paths_of(resources: impl Iterator<Item = Resource>, dialect: Dialect) -> Value {
    Value::Object(resources.flat_map(|resource| paths::of(&resource, dialect)).collect())
}

/// A definition with the references of version 2. Version 3 writes a reference with a description as `allOf`.
fn in_v2(name: &str, schema: &str) -> String {
    const ALL_OF: &str = r##""allOf":[{"$ref":"#/components/schemas/"##;
    match name {
        INT_OR_STRING => return json!({"type": "string", "format": "int-or-string"}).to_string(),
        QUANTITY => return json!({"type": "string"}).to_string(),
        _ => {}
    }
    let mut out = String::with_capacity(schema.len());
    let mut rest = schema;
    while let Some((before, after)) = rest.split_once(ALL_OF) {
        let (target, tail) = after.split_once("\"}]").unwrap_or((after, ""));
        out += &format!(r#"{before}"$ref":"{REFERENCE_V2}{target}""#);
        rest = tail;
    }
    out.push_str(rest);
    out.replace(REFERENCE_V3, REFERENCE_V2)
}

/// Everything that a text refers to, and what that refers to, and so on.
fn closure<'t>(text: &str, all: &BTreeMap<&'t str, &'t str>) -> BTreeSet<&'t str> {
    let mut found = BTreeSet::new();
    let mut wanted: Vec<&str> = references(text, all);
    while let Some(name) = wanted.pop() {
        let Some((name, schema)) = all.get_key_value(name) else { continue };
        if found.insert(*name) {
            wanted.extend(references(schema, all));
        }
    }
    found
}

fn references<'t>(text: &str, all: &BTreeMap<&'t str, &'t str>) -> Vec<&'t str> {
    let names = text.split(REFERENCE_V3).skip(1).filter_map(|rest| rest.split('"').next());
    names.filter_map(|name| all.get_key_value(name).map(|(name, _)| *name)).collect()
}

#[cfg(test)]
mod tests;
