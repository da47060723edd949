//! A registry of a test's own, which may lie, break off and never end.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use supervisor::image::Digest;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// How many requests for this path came before.
    pub before: usize,
}

/// What a server says.
#[derive(Debug, Clone)]
pub enum Answer {
    Whole {
        status: &'static str,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// Breaks off after so many bytes of the body.
    Cut {
        headers: Vec<(String, String)>,
        status: &'static str,
        body: Vec<u8>,
        after: usize,
    },
    /// Sends so many bytes of the body, says so to the test, and waits until the other side has gone.
    Stuck {
        body: Vec<u8>,
        after: usize,
    },
    /// These bytes again and again.
    Endless {
        head: Vec<u8>,
        again: Vec<u8>,
    },
}

impl Answer {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::with(&[], body)
    }

    pub fn with(headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self::Whole { status: "200 OK", headers, body: body.into() }
    }

    pub fn status(status: &'static str, headers: &[(&str, &str)]) -> Self {
        let Self::Whole { headers, .. } = Self::with(headers, "") else { unreachable!() };
        Self::Whole { status, headers, body: Vec::new() }
    }
}

type Handler = dyn Fn(&Seen) -> Answer + Send + Sync;

/// Serves on loopback until the test process ends.
pub struct Server {
    pub address: SocketAddr,
    pub log: Arc<Mutex<Vec<Seen>>>,
    pub stuck: Receiver<()>,
}

impl Server {
    pub fn start(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, stuck) = channel();
        let (seen, handler): (_, Arc<Handler>) = (Arc::clone(&log), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, handler, sender) = (Arc::clone(&seen), Arc::clone(&handler), sender.clone());
                // A client that goes away is what many tests are about.
                std::thread::spawn(move || serve(stream, &seen, &*handler, &sender).unwrap_or_default());
            }
        });
        Self { address, log, stuck }
    }

    /// Name of an image here.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub fn requests(&self, part: &str) -> Vec<Seen> {
        self.log.lock().unwrap().iter().filter(|seen| seen.path.contains(part)).cloned().collect()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Seen>>, handler: &Handler, stuck: &Sender<()>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    // The first byte of a TLS handshake: this server speaks none, and says so by closing.
    if reader.fill_buf()?.first() == Some(&0x16) {
        return Ok(());
    }
    let mut lines = reader.by_ref().lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers = lines.map_while(|line| line.ok().filter(|line| !line.is_empty()));
    let headers = headers.filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_ascii_lowercase(), value.to_owned()))
    });
    let headers = headers.collect();
    let seen = {
        let mut log = log.lock().unwrap();
        let before = log.iter().filter(|seen| seen.path == path).count();
        log.push(Seen { path, headers, before });
        log.last().cloned().unwrap()
    };
    answer(stream, handler(&seen), stuck)
}

fn answer(mut stream: TcpStream, answer: Answer, stuck: &Sender<()>) -> std::io::Result<()> {
    match answer {
        Answer::Whole { status, headers, body } => {
            stream.write_all(&head(status, &headers, body.len()))?;
            stream.write_all(&body)
        }
        Answer::Cut { status, headers, body, after } => {
            stream.write_all(&head(status, &headers, body.len()))?;
            stream.write_all(&body[..after])
        }
        Answer::Stuck { body, after } => {
            stream.write_all(&head("200 OK", &[], body.len()))?;
            stream.write_all(&body[..after])?;
            stream.flush()?;
            stuck.send(()).unwrap_or_default();
            stream.read_to_end(&mut Vec::new()).map(|_| ())
        }
        Answer::Endless { head, again } => {
            stream.write_all(&head)?;
            loop {
                stream.write_all(&again)?;
            }
        }
    }
}

fn head(status: &str, headers: &[(String, String)], length: usize) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n").into_bytes()
}

/// An image in memory.
#[derive(Debug, Clone, Default)]
pub struct TestImage {
    pub manifest: Vec<u8>,
    pub blobs: BTreeMap<String, Vec<u8>>,
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl TestImage {
    /// Of layers as plain archives; they are compressed on their way.
    pub fn new(layers: &[Vec<u8>]) -> Self {
        let mut image = Self::default();
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let config = format!(
            r#"{{"architecture":"{arch}","os":"linux","config":{{"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":{}}}}}"#,
            serde_json::to_string(&diff_ids).unwrap()
        );
        let config = image.add("application/vnd.oci.image.config.v1+json", config.into_bytes());
        let layers: Vec<_> =
            layers.iter().map(|layer| image.add("application/vnd.oci.image.layer.v1.tar+gzip", gzip(layer))).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        image.manifest = serde_json::to_vec(&manifest).unwrap();
        image
    }

    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> serde_json::Value {
        let digest = Digest::of(&bytes).to_string();
        let descriptor = serde_json::json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
        self.blobs.insert(digest, bytes);
        descriptor
    }

    /// The digest of the largest blob: a layer.
    pub fn largest(&self) -> String {
        self.blobs.iter().max_by_key(|(_, bytes)| bytes.len()).map(|(digest, _)| digest.clone()).unwrap()
    }

    /// As an honest registry answers, with ranges.
    pub fn answer(&self, seen: &Seen) -> Answer {
        let path = seen.path.split('?').next().unwrap();
        let last = path.rsplit('/').next().unwrap();
        if seen.path.contains("/manifests/") {
            return Answer::with(&[("Content-Type", MANIFEST)], self.manifest.clone());
        }
        let Some(blob) = self.blobs.get(last) else { return Answer::status("404 Not Found", &[]) };
        let range = seen.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
        match range.and_then(|range| range.strip_suffix('-')).map(|from| from.parse::<usize>().unwrap()) {
            None => Answer::ok(blob.clone()),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
                let headers = vec![("Content-Range".to_owned(), range)];
                Answer::Whole { status: "206 Partial Content", headers, body: blob[from..].to_vec() }
            }
        }
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// One tar entry, with any name whatever.
pub fn entry(flag: u8, path: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.as_old_mut().linkflag = [flag];
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// An archive of these entries.
pub fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

/// Bytes that do not compress, the same every time.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
